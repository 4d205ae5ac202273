"""Put the output of real commands between the markers of the README: `make readme`."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
COMMANDS = {"demo": ["demo", "--exit"]}


def main() -> None:
    """Run each command and replace what stands between its markers."""
    text = README.read_text()
    for name, command in COMMANDS.items():
        done = subprocess.run([sys.executable, "-m", "shop", *command], capture_output=True, text=True, check=True)  # noqa: S603
        shown = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        block = f"<!-- {name} -->\n```text\n$ make demo\n{shown}\n```\n<!-- /{name} -->"
        text, replaced = re.subn(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _: block, text, flags=re.DOTALL)  # noqa: B023
        if replaced != 1:
            sys.exit(f"README.md has {replaced} places for {name!r}")
    README.write_text(text)


main()
