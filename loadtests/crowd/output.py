"""What the commands of a crowd print: JSON, one object a line."""

import sys
from typing import Any

import msgspec


def write_line(value: dict[str, Any]) -> None:
    """Write one object to the standard output, at once."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()
