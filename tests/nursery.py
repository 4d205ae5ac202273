"""Commands of the shop as processes, forked from one interpreter that has imported the shop already.

Importing takes longer than most of what the tests do with a process. In every other way it is the shop's own `main`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from tests.source_tree import ROOT

END_SECONDS = 20.0
POLL_SECONDS = 0.02

# For `demo` and `up`: any free port, because other shops may run on this machine.
ANY_PORT = {"SHOP_API_PORT": "0", "SHOP_METRICS_PORT": "0"}

_commands = count(1)

# Reads one request a line and answers each with one line. A child gets SIGTERM when this process ends.
NURSERY = """
import ctypes, gc, json, os, sys
import typer.main, typer.rich_utils, uvicorn, shop.app.factory, shop.server.serving, shop.sandbox.server, shop.worker
from shop.cli import app, main
from shop.cli.commands import COMMANDS
for name in COMMANDS:
    typer.main.get_command(app).load(name)
gc.freeze()

def start(arguments, environment, directory, files):
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
    for number, (file, flags) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
        os.dup2(os.open(file, flags | (os.O_CREAT | os.O_APPEND if number else 0), 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["shop", *arguments]
    main()
    sys.exit(0)

def poll(pid):
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None

for line in sys.stdin:
    name, arguments = json.loads(line)
    print(json.dumps({"start": start, "poll": poll}[name](*arguments)), flush=True)
"""


class Nursery:
    """The interpreter that the processes are forked from. It ends with this process, and they end with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def ask(self, name: str, *arguments: object) -> int | None:
        """One request and its answer."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps([name, arguments]) + "\n")
            self._process.stdin.flush()
            answer: int | None = json.loads(self._process.stdout.readline())
        return answer


@lru_cache
def nursery() -> Nursery:
    """The one of this run."""
    return Nursery()


class Child:
    """A command of the shop that runs, or has run, as a process of its own."""

    def __init__(
        self,
        arguments: Iterable[str],
        *,
        environment: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
        directory: Path | None = None,
        answers: Path | None = None,
    ) -> None:
        self.returncode: int | None = None
        files = [str(file or other) for file, other in ((answers, os.devnull), (output, output), (errors, output))]
        pid = nursery().ask("start", list(arguments), dict(environment), str(directory or ROOT), files)
        assert pid is not None
        self.pid = pid

    def poll(self) -> int | None:
        """The status if it has ended; minus the signal's number if it was killed."""
        if self.returncode is None:
            self.returncode = nursery().ask("poll", self.pid)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float = END_SECONDS) -> int:
        """The status, once it has ended. Raises TimeoutError."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"process {self.pid} has not ended")
            time.sleep(POLL_SECONDS)
        return status


@dataclass(frozen=True)
class Said:
    """What a command printed, and how it ended."""

    status: int
    output: str
    errors: str

    @property
    def value(self) -> Any:
        """The one JSON value that it printed."""
        return json.loads(self.output)


def environment(**variables: str) -> dict[str, str]:
    """What every command gets: no settings of whoever runs the tests, wide lines, no colours.

    Its worker stands back behind nobody: the tests themselves want every core, and wait for it.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "SHOP_WORKER_NICENESS": "0", **variables}


def start(directory: Path, *arguments: str, answers: str = "", **variables: str) -> tuple[Child, Path, Path]:
    """Start `shop ARGUMENTS…` in a directory; returns it with the files that it writes to."""
    number = next(_commands)
    files = [directory / f"{number}.{name}" for name in ("in", "out", "err")]
    for file in files:
        file.write_text(answers if file == files[0] else "")
    child = Child(
        arguments,
        environment=environment(**variables),
        directory=directory,
        answers=files[0],
        output=files[1],
        errors=files[2],
    )
    return child, files[1], files[2]


def run(directory: Path, *arguments: str, answers: str = "", **variables: str) -> Said:
    """Run `shop ARGUMENTS…` to its end."""
    child, output, errors = start(directory, *arguments, answers=answers, **variables)
    return Said(child.wait(), output.read_text(), errors.read_text())


def family(pid: int) -> list[psutil.Process]:
    """A process and all that come from it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. One that ended and that nobody asked for its status does not run."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
