"""The log tells of errors, and makes none: what cannot be written is counted, and what was sent is escaped."""

import json
import re
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


LOGGING = """
import json, logging, sys, structlog
from shop.logs import configure_logs
from shop.settings import Settings

configure_logs(Settings(_env_file=None, environment="development", log_format=sys.argv[1], log_level="debug"))
for hostile in json.loads(sys.argv[2]):
    structlog.get_logger("shop").warning("server_away", path=hostile, reason=repr(hostile))
    logging.getLogger("uvicorn").warning("said %s", hostile)
    try:
        raise ValueError(hostile)
    except ValueError as error:
        structlog.get_logger("shop").error("unforeseen", path=hostile, exc_info=error)
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_clients_send_is_in_no_line_of_the_log_as_it_came(log_format: str) -> None:
    """No line break makes a line of its own, and no terminal obeys what was sent: all is escaped, in plain ASCII."""
    hostile = ["a\r\n{evil: line", "\x1b[31mred", "\x9b31m", "ключ", "}\u202e{", "a\u2028b", "x\0"]

    command = [sys.executable, "-c", LOGGING, log_format, json.dumps(hostile)]
    log = subprocess.run(command, capture_output=True, check=True).stderr.decode()

    assert log.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", log)
    first = "{" if log_format == "json" else "20"
    events = [line for line in log.splitlines() if line.startswith(first)]
    assert len(events) == 3 * len(hostile)
    assert all(line.startswith("    ") for line in log.splitlines() if line not in events)
