"""Named points where a test may break a process for real: `SHOP_FAULT=<point>` makes it kill or stop itself there.

Once: a process that was stopped and goes on is an ordinary one from then on.
"""

import os
import signal

from shop.settings import Settings

# The steps of a recovery: a process can be killed or stopped right before each.
RECOVERY_STEPS = ("fence", "compare", "renew", "lift", "load", "chunk", "mark", "honour", "batch", "open", "done")
POINTS = {
    "before_commit": signal.SIGKILL,
    "after_commit": signal.SIGKILL,
    "before_answer": signal.SIGKILL,
    "after_expiry": signal.SIGKILL,
    "stop_in_batch": signal.SIGSTOP,
    "stop_in_copy": signal.SIGSTOP,
    "after_delivery": signal.SIGKILL,
    "stop_before_verified": signal.SIGSTOP,
    "stop_before_finding": signal.SIGSTOP,
    **{f"kill_at_{step}": signal.SIGKILL for step in RECOVERY_STEPS},
    **{f"stop_at_{step}": signal.SIGSTOP for step in RECOVERY_STEPS},
}

_reached: set[str] = set()


def recovery_fault_point(settings: Settings, step: str) -> None:
    """The point before a step of a recovery, for both ways to break there."""
    for verb in ("kill", "stop"):
        fault_point(settings, f"{verb}_at_{step}")


def fault_point(settings: Settings, name: str) -> None:
    """Send this process the point's signal if the setting asks for it; in production the setting is refused."""
    if settings.fault == name and name not in _reached:
        _reached.add(name)
        os.kill(os.getpid(), POINTS[name])
