"""What the parts of the server ask of one connection; `shop.server.protocol.ShopProtocol` is what they get."""

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, NamedTuple

from uvicorn.server import ServerState

from shop.server.heads import Head
from shop.server.sending import SendingProtocol
from shop.server.states import State


class TimeLimits(NamedTuple):
    """The seconds in which a request must be here, and those that a connection may be idle."""

    request_seconds: float
    idle_seconds: float


class Connection(SendingProtocol, ABC):
    """A connection that reads requests as well."""

    server_state: ServerState
    state: State
    head: Head
    # The unanswered requests, the oldest first.
    exchanges: deque[Any]
    # The address that it is counted for: of a peer that has reset the connection, the socket knows none any more.
    accepted_from: str | None = None
    # What has come while it waits for its share of the loop (`shop.server.read_queue`).
    unread: bytes = b""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether the next byte begins a request that may be answered."""

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Read what has come."""

    @abstractmethod
    def receive_unread(self) -> None:
        """Read what has waited."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read on."""

    @abstractmethod
    def answered(self, scope: dict[str, Any] | None, keep_alive: bool) -> None:
        """Go on after the answer to the oldest request is complete; a whole one that was not parsed has no scope."""

    @abstractmethod
    def leave_to_application(self, data: bytes) -> None:
        """Let the application answer the oldest request, which is whole in these bytes and was begun without it."""

    @abstractmethod
    def cut_if_late(self, now: float, limits: TimeLimits) -> None:
        """Refuse a request that takes too long to come; close a connection that nobody uses, or reads."""
