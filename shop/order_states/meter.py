"""What a coroutine takes of the process's core."""

import time
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Metered(Generic[Result]):
    """Await it for what the coroutine returns; `cpu_seconds` is what its own steps have taken so far."""

    def __init__(self, work: Coroutine[Any, Any, Result]) -> None:
        self.cpu_seconds = 0.0
        self._work = work

    def __await__(self) -> Generator[Any, None, Result]:
        steps, error = self._work.__await__(), None
        while True:
            begun = time.thread_time()
            try:
                waits_for = next(steps) if error is None else steps.throw(error)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                self.cpu_seconds += time.thread_time() - begun
            error = None
            try:
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - it is the coroutine's
                error = thrown
