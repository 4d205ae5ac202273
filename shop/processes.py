"""Child processes that do not outlive their parent."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from shop.embedded.process import LAUNCHER

PR_SET_PDEATHSIG = 1


def run_beside(
    command: Sequence[str], *, environment: Mapping[str, str], output: "IO[bytes] | int"
) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, out of reach of the terminal's Ctrl-C, that gets SIGTERM when we end."""
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), f"--parent={os.getpid()}"]
    launcher += [f"--death-signal={int(signal.SIGTERM)}", *(["--watch"] if sys.platform != "linux" else [])]
    return subprocess.Popen(  # noqa: S603 - our own program
        [*launcher, "--", *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def die_with_parent() -> None:
    """Let a process of the server's pool end when the server is killed. Only Linux can; elsewhere it does nothing."""
    if multiprocessing.parent_process() is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
