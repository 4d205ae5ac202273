"""What the server asks of the application before it begins a request: all that it knows of it."""

import asyncio
from typing import Any, NamedTuple, Protocol

from shop.server.answers import Answer, Reply


class ReadKind(NamedTuple):
    """Reads that come in crowds: how they begin, and how many are handled before the next kind's."""

    weight: int
    starts: frozenset[bytes]


class Admission(Protocol):
    """Decides about requests at the door. Nothing here waits: it runs between the reading of two connections."""

    # How a request begins that comes in crowds; under pressure such requests are not even read.
    bulk_start: bytes
    read_kinds: tuple[ReadKind, ...]

    def is_bulk(self, scope: dict[str, Any]) -> bool:
        """Whether a request is of the kind that comes in crowds."""

    def admit(self, scope: dict[str, Any]) -> bytes | None:
        """None, and the request begins; else the answer (503) but for its status line and the server's own headers."""

    def begin_unparsed(self, data: bytes, reply: Reply) -> bytes | bool:
        """Begin what may be a whole request of that kind, read from its bytes; False in every doubt: it is parsed.

        True means that `reply` has been called, or will be, once: with the answer, or with None to leave the request to
        the application after all. Bytes are a refusal as `admit` has it.
        """

    def answer(self, scope: dict[str, Any], body: bytes) -> "Answer | asyncio.Future[Answer] | None":
        """The answer to a whole request, or a future that brings it; None leaves it to the application, in a task.

        An exception of the future is answered 500; if it is cancelled, the connection is closed.
        """
