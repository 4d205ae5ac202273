"""The log tells of errors, and makes none: what cannot be written is counted."""

import subprocess
import sys

import pytest

LOST = """
import os, signal, sys, structlog
from shop import metrics
from shop.logs import configure_logs
from shop.settings import Settings

signal.signal(signal.SIGPIPE, signal.SIG_IGN)
kind = sys.argv[1]
if kind == "closed":
    sys.stderr.close()
elif kind == "missing":
    sys.stderr = None
else:
    file = os.open("/dev/full", os.O_WRONLY)
    if kind == "unread":
        unread, file = os.pipe()
        os.close(unread)
    os.dup2(file, 2)
configure_logs(Settings(_env_file=None, environment="development", log_format="json"))
for _ in range(3):
    structlog.get_logger("shop").error("unforeseen")
print(metrics.LOG_LINES_LOST._value.get())
"""


@pytest.mark.parametrize(("kind", "lost"), [("full", 3), ("unread", 3), ("closed", 3), ("missing", 0)])
def test_a_log_that_cannot_be_written_costs_its_lines_and_nothing_else(kind: str, lost: int) -> None:
    """What raised here would end the request, or the loop, that wanted to tell of somebody else's error."""
    done = subprocess.run([sys.executable, "-c", LOST, kind], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, f"{float(lost)}\n"), done.stderr
