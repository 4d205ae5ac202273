"""Requests that were complete in one read and are answered without a scope and without a task."""

from typing import Any

import httptools
from starlette.types import ASGIApp

from shop.server.admission_control import AdmissionControl
from shop.server.answers import WholeAnswer
from shop.server.connection import Connection
from shop.server.heads import Head, answer_start


class WholeRequest:
    """One of them, in the place of an `Exchange`: it has begun, and its answer comes by `reply`."""

    __slots__ = ("_connection", "_data", "_disconnected", "keep_alive")

    ready = runs = True

    def __init__(self, connection: Connection, data: bytes) -> None:
        self.keep_alive = True
        self._connection = connection
        self._data = data
        self._disconnected = False

    def start(self, app: ASGIApp, admission: object) -> None:
        """It has begun already."""

    def disconnect(self) -> None:
        """Nobody waits for the answer any more."""
        self._disconnected = True

    def cancel(self, msg: str | None = None) -> None:
        """The server does not wait for it any longer: what becomes of it is unknown."""
        self._connection.close()

    def reply(self, answer: WholeAnswer | None) -> None:
        """Write the answer; without one the application answers after all."""
        connection = self._connection
        connection.server_state.tasks.discard(self)
        if self._disconnected:
            return
        if answer is None:
            connection.leave_to_application(self._data)
            return
        start = answer_start(answer.status, connection.server_state.default_headers)
        connection.write(start + (b"" if self.keep_alive else b"connection: close\r\n") + answer.rest)
        connection.answered(None, self.keep_alive)


def begins(connection: Connection, data: bytes, admission: AdmissionControl) -> bool:
    """Whether these bytes, which came on an idle connection, were a whole request that is begun now, or refused."""
    request = WholeRequest(connection, data)
    connection.exchanges.append(request)
    begun = admission.begin_unparsed(connection, data, request.reply)
    if begun is True:
        if connection.exchanges:  # Else it is answered already.
            connection.server_state.tasks.add(request)  # type: ignore[arg-type]
        return True
    connection.exchanges.pop()
    if begun is False:
        return False
    connection.write(begun)
    admission.refused(connection)
    return True


class _Parsed:
    """What a parser finds in a whole request."""

    def __init__(self, data: bytes) -> None:
        self.head, self.body = Head(), b""
        self.on_url, self.on_header = self.head.on_url, self.head.on_header
        httptools.HttpRequestParser(self).feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body


def parsed(data: bytes, scope: dict[str, Any]) -> bytes:
    """Put the head of a whole POST into the scope of its connection. Returns the body."""
    found = _Parsed(data)
    scope["method"] = "POST"
    found.head.complete(scope)
    return found.body
