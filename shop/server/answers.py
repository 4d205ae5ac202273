"""Answers that are written by hand, as ASGI messages or as a whole."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from starlette.types import Send

from shop.errors import ShopError
from shop.problem_json import MEDIA_TYPE, problem_body

Headers = list[tuple[bytes, bytes]]
Found = TypeVar("Found")

JSON = b"application/json"
INSTANCE_HERE, REQUEST_ID_HERE = "{instance}", "{request_id}"
CONTENT_TYPE_JSON = (b"content-type", JSON)
CONTENT_TYPE_PROBLEM = (b"content-type", MEDIA_TYPE.encode())


class Answer(NamedTuple):
    """An answer that needs no application: its status, its headers, its body."""

    status: int
    headers: Headers
    body: bytes


class WholeAnswer(NamedTuple):
    """An answer as bytes: its status, and what stands behind the status line and the server's own headers."""

    status: int
    rest: bytes


Reply = Callable[[WholeAnswer | None], None]


def answer_when(
    found: "asyncio.Future[Found]", make: "Callable[[asyncio.Future[Found]], Answer | asyncio.Future[Answer]]"
) -> "asyncio.Future[Answer]":
    """The answer that `make` makes of something once it is there, or that it says will come later.

    What `make` raises is raised by the future.
    """
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def tell(done: "asyncio.Future[Found]") -> None:
        if answer.done():
            return
        if done.cancelled():
            answer.cancel()
            return
        try:
            made = make(done)
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer gets it
            answer.set_exception(error)
            return
        if isinstance(made, Answer):
            answer.set_result(made)
        else:
            made.add_done_callback(pass_on)

    def pass_on(made: "asyncio.Future[Answer]") -> None:
        if answer.done():
            return
        if made.cancelled():
            answer.cancel()
        elif (error := made.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(made.result())

    found.add_done_callback(tell)
    return answer


class PreparedProblem:
    """The problem document of a refusal as bytes, into which only the request's own parts are filled."""

    def __init__(self, error: ShopError) -> None:
        document = problem_body(error, instance=INSTANCE_HERE, request_id=REQUEST_ID_HERE)
        self._start, _, rest = document.partition(INSTANCE_HERE.encode())
        self._middle, _, self._end = rest.partition(REQUEST_ID_HERE.encode())

    def body(self, path: str, request_id: bytes) -> bytes:
        """The document for this request; both values are plain ASCII without quotes."""
        return b"".join((self._start, path.encode(), self._middle, request_id, self._end))


def with_length(headers: Headers, body: bytes, request_id: bytes) -> Headers:
    """The headers of an answer, with those that every answer has."""
    return [*headers, (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]


async def respond(send: Send, status: int, headers: Headers, body: bytes, request_id: bytes) -> None:
    """Send an answer."""
    headers = with_length(headers, body, request_id)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def refusal(error: ShopError, path: str, request_id: bytes) -> Answer:
    """The problem document of a refusal."""
    body = problem_body(error, instance=path, request_id=request_id.decode())
    headers = [CONTENT_TYPE_PROBLEM]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return Answer(error.status, with_length(headers, body, request_id), body)


async def refuse(send: Send, error: ShopError, path: str, request_id: bytes) -> None:
    """Send the problem document of a refusal."""
    answer = refusal(error, path, request_id)
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
