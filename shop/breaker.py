"""A circuit breaker: after some failures in a row a service is not asked for a cool-down, then one caller tries."""

import asyncio
from collections.abc import Callable


class CircuitOpen(Exception):
    """The circuit is open for another `cooldown_seconds`; the service was not asked."""

    def __init__(self, cooldown_seconds: float) -> None:
        super().__init__(f"the circuit is open for another {cooldown_seconds:.1f} s")
        self.cooldown_seconds = cooldown_seconds


class Breaker:
    """Closed while the service answers, open for a cool-down after `failures_max` failures in a row, then half open.

    Half open it lets one caller through, whose luck decides. `tell` learns of each change: is it open?
    """

    def __init__(
        self, *, failures_max: int, cooldown_seconds: float, tell: Callable[[bool], None] | None = None
    ) -> None:
        self._failures_max = failures_max
        self._cooldown_seconds = cooldown_seconds
        self._tell = tell or (lambda is_open: None)
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    def asked(self, *failures: type[BaseException]) -> "_Call":
        """Ask the service within it; these exceptions count as its failures, any other is not its fault.

        Raises CircuitOpen, and then nothing within runs.
        """
        return _Call(self, failures)

    def admit(self) -> bool:
        """Whether this caller is the one who tries. Raises CircuitOpen."""
        if self._open_until is None:
            return False
        left = self._open_until - asyncio.get_running_loop().time()
        if left > 0 or self._probing:
            raise CircuitOpen(max(left, 0.0))
        self._probing = True
        return True

    def ended(
        self, kind: type[BaseException] | None, failures: tuple[type[BaseException], ...], *, probe: bool
    ) -> None:
        """Learn from how a call has ended."""
        if probe:
            self._probing = False
        if kind is None or not issubclass(kind, (*failures, asyncio.CancelledError)):
            self._answered()
        elif issubclass(kind, failures):
            self._failed(probe=probe)
        # Else whoever asked has left: nothing was learned.

    def _answered(self) -> None:
        self._failures = 0
        if self._open_until is not None:
            self._open_until = None
            self._tell(False)

    def _failed(self, *, probe: bool) -> None:
        self._failures += 1
        if probe or (self._open_until is None and self._failures >= self._failures_max):
            self._open_until = asyncio.get_running_loop().time() + self._cooldown_seconds
            self._tell(True)


class _Call:
    """One call of a service; a class, because a generator takes twice as long."""

    __slots__ = ("_breaker", "_failures", "_probe")

    def __init__(self, breaker: Breaker, failures: tuple[type[BaseException], ...]) -> None:
        self._breaker = breaker
        self._failures = failures
        self._probe = False

    def __enter__(self) -> None:
        self._probe = self._breaker.admit()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._breaker.ended(kind, self._failures, probe=self._probe)
