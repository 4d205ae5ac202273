"""Named points where a test may break a process for real: `SHOP_FAULT=<point>` makes it kill or stop itself there.

Once: a process that was stopped and goes on is an ordinary one from then on.
"""

import os
import signal

from shop.settings import Settings

POINTS = {
    "before_commit": signal.SIGKILL,
    "after_commit": signal.SIGKILL,
    "before_answer": signal.SIGKILL,
    "after_expiry": signal.SIGKILL,
    "stop_in_batch": signal.SIGSTOP,
    "stop_in_copy": signal.SIGSTOP,
    "after_delivery": signal.SIGKILL,
}

_reached: set[str] = set()


def fault_point(settings: Settings, name: str) -> None:
    """Send this process the point's signal if the setting asks for it; in production the setting is refused."""
    if settings.fault == name and name not in _reached:
        _reached.add(name)
        os.kill(os.getpid(), POINTS[name])
