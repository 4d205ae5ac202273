"""pytest in a fork of an interpreter that has imported what the shop and its tests are built on.

Importing that takes longer than most of the tests do. Of the shop itself nothing is imported before the fork: each run
has the code of its own tree.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

OUT_OF_TIME = -1

# Answers each request with two lines: the process, and what it ended with.
SOURCE = """
import importlib, json, os, sys

for name in (
    "alembic.command", "alembic.config", "argon2", "arq", "asyncpg", "fastapi", "fastapi_offline", "httptools",
    "httpx", "hypothesis", "jwt", "msgspec", "psutil", "pydantic_settings", "pytest", "_pytest.junitxml",
    "redis.asyncio", "rich", "sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.ext.asyncio", "standardwebhooks",
    "structlog", "typer", "typer.rich_utils", "uvicorn", "xdist.plugin",
):
    importlib.import_module(name)
assert "shop" not in sys.modules and "tests" not in sys.modules

def run(directory, environment, arguments, output):
    for number, file in ((0, os.devnull), (1, output), (2, output)):
        os.dup2(os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path.insert(0, directory)
    sys.argv = ["pytest", *arguments]
    sys.exit(sys.modules["pytest"].main(arguments))

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        run(*json.loads(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Interpreter:
    """One interpreter, which runs one pytest after the other. It ends with the process that started it."""

    def __init__(self) -> None:
        plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SOURCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd="/", env=plain
        )

    def run(
        self, directory: Path, environment: Mapping[str, str], arguments: Sequence[str], output: Path, *, seconds: float
    ) -> int:
        """What pytest ended with in this directory, or OUT_OF_TIME when it was killed after so many seconds."""
        assert self._process.stdin
        request = [str(directory), dict(environment), list(arguments), str(output)]
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        pid = self._read()
        if self._says_more(within=seconds):
            return self._read()
        os.kill(pid, signal.SIGKILL)
        self._read()
        return OUT_OF_TIME

    def _says_more(self, *, within: float) -> bool:
        assert self._process.stdout
        return bool(select.select([self._process.stdout], [], [], within)[0])

    def _read(self) -> int:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the interpreter of the tests ended with {self._process.wait()}")
        return int(line)


_own = threading.local()


def interpreter() -> Interpreter:
    """The one of this thread."""
    if not hasattr(_own, "interpreter"):
        _own.interpreter = Interpreter()
    found: Interpreter = _own.interpreter
    return found
