"""Leave a service alone that fails: after some failures in a row nobody asks it, then one caller tries."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class BreakerOpen(Exception):
    """The service is left alone for another `rest_seconds`; it was not asked."""

    def __init__(self, rest_seconds: float) -> None:
        super().__init__(f"left alone for another {rest_seconds:.1f} s")
        self.rest_seconds = rest_seconds


class Breaker:
    """Closed while the service answers, open for a rest after `failures_max` failures in a row, then half open.

    Half open it lets one caller through, whose luck decides. `tell` learns of each change: is it open?
    """

    def __init__(self, *, failures_max: int, rest_seconds: float, tell: Callable[[bool], None]) -> None:
        self._failures_max = failures_max
        self._rest_seconds = rest_seconds
        self._tell = tell
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    @contextmanager
    def asked(self, *failures: type[BaseException]) -> Iterator[None]:
        """Ask the service within it; these exceptions count as its failures, any other is not its fault.

        Raises BreakerOpen, and then nothing within runs.
        """
        probe = self._admit()
        try:
            yield
        except failures:
            self._failed(probe=probe)
            raise
        except asyncio.CancelledError:
            raise  # Whoever asked has left: nothing was learned.
        except BaseException:
            self._answered()
            raise
        else:
            self._answered()
        finally:
            self._probing = self._probing and not probe

    def _admit(self) -> bool:
        """Whether this caller is the one who tries."""
        if self._open_until is None:
            return False
        rest = self._open_until - asyncio.get_running_loop().time()
        if rest > 0 or self._probing:
            raise BreakerOpen(max(rest, 0.0))
        self._probing = True
        return True

    def _answered(self) -> None:
        self._failures = 0
        if self._open_until is not None:
            self._open_until = None
            self._tell(False)

    def _failed(self, *, probe: bool) -> None:
        self._failures += 1
        if probe or (self._open_until is None and self._failures >= self._failures_max):
            self._open_until = asyncio.get_running_loop().time() + self._rest_seconds
            self._tell(True)
