"""Run `shop ARGUMENTS…` with a wall clock that is off by the seconds in the file of STEPPED_CLOCK, read at each look.

For Python's eyes alone: what it says is what the modules of the shop and of arq get; monotonic clocks and the servers
go on as they are.
"""

import datetime as datetimes
import os
import sys
import time
from pathlib import Path
from typing import Any

import shop.cli.servers
import shop.worker.running

# Both are imported before the clock is stepped: what is imported later would see the true one.

OFFSET = Path(os.environ["STEPPED_CLOCK"])
true_time = time.time


def stepped_time() -> float:
    return true_time() + float(OFFSET.read_text())


class SteppedDatetime(datetimes.datetime):
    """Its `now` is the stepped one."""

    @classmethod
    def now(cls, tz: Any = None) -> "SteppedDatetime":
        return cls.fromtimestamp(stepped_time(), tz)


def step_clock() -> None:
    """Let every module that is loaded look at the stepped clock."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in {"shop", "arq"}:
            for attribute, value in list(vars(module).items()):
                if value is true_time:
                    setattr(module, attribute, stepped_time)
                elif value is datetimes.datetime:
                    setattr(module, attribute, SteppedDatetime)
    time.time = stepped_time


if __name__ == "__main__":
    step_clock()
    shop.cli.main()
