"""A coroutine run step by step, for whoever must know what each of its steps takes, or when the next one may be."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


def _at_once() -> "asyncio.Future[None] | None":
    return None


@types.coroutine
def stepwise(
    work: Coroutine[Any, Any, Result],
    *,
    clock: Callable[[], float],
    spent: Callable[[float], object],
    pause: "Callable[[], asyncio.Future[None] | None]" = _at_once,
) -> Generator[Any, Any, Result]:
    """Await `work`, and return and raise what it does.

    `spent` is told the seconds of each step by this clock; before a step, `pause` may name what it has to wait for.
    """
    error: BaseException | None = None
    while True:
        if error is None and (waiting := pause()) is not None:
            try:
                yield from waiting
            except asyncio.CancelledError as cancelled:
                error = cancelled
        began = clock()
        try:
            awaited = work.send(None) if error is None else work.throw(error)
        except StopIteration as ended:
            result: Result = ended.value
            return result
        finally:
            spent(clock() - began)
        error = None
        try:
            yield awaited
        except GeneratorExit:
            work.close()
            raise
        except BaseException as raised:  # noqa: BLE001 - it is the coroutine's, which is resumed with it
            error = raised
