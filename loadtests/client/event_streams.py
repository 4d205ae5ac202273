"""A crowd of event streams from one thread: opened at a pace, and held open until they are closed."""

import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.client.http import Address

READ_BYTES = 64 * 1024
POLL_SECONDS = 0.005
SUCCESS = b"200"


@dataclass(slots=True)
class _Stream:
    """One stream: the request that has not left yet, and what has come of the answer up to its first event."""

    socket: socket.socket
    request: bytes
    begun_at: float
    received: bytes = b""


@dataclass
class Opened:
    """What became of the streams: `refused` counts other statuses than 200, `lost` those that ended or never answered.

    `first_event_seconds` has for each stream the time from its connect to the end of its first event.
    """

    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    first_event_seconds: list[float] = field(default_factory=list)


class EventStreams:
    """Event streams of one client; `close` them. It blocks: let it run in a thread of its own."""

    def __init__(self, address: Address, requests: Sequence[bytes]) -> None:
        self._address = (address.host, address.port)
        self._requests = requests
        self._poll = select.epoll()
        self._streams: dict[int, _Stream] = {}
        self._waiting = 0
        self._opened = Opened()

    def open(self, *, within_seconds: float, patience_seconds: float) -> Opened:
        """Connect all of them evenly within this time, and wait for the first event of each, until patience ends."""
        began = time.perf_counter()
        gap, sent = within_seconds / max(len(self._requests), 1), 0
        while (now := time.perf_counter()) < began + patience_seconds:
            due = min(int((now - began) / gap) + 1, len(self._requests)) if gap else len(self._requests)
            for request in self._requests[sent:due]:
                self._connect(request)
            sent = max(sent, due)
            if sent == len(self._requests) and not self._waiting:
                break
            for number, events in self._poll.poll(POLL_SECONDS):
                self._act(self._streams[number], events)
        self._opened.lost += self._waiting
        return self._opened

    def close(self) -> None:
        """Leave, all at once."""
        for stream in self._streams.values():
            stream.socket.close()
        self._streams.clear()
        self._poll.close()

    def _connect(self, request: bytes) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self._address)
        self._streams[sock.fileno()] = _Stream(sock, request, time.perf_counter())
        self._waiting += 1
        self._poll.register(sock, select.EPOLLOUT)

    def _act(self, stream: _Stream, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                stream.socket.send(stream.request)
                self._poll.modify(stream.socket, select.EPOLLIN)
                return
            data = stream.socket.recv(READ_BYTES)
        except OSError:
            data = b""
        stream.received += data
        if self._is_answered(stream) or not data:
            self._waiting -= 1
            self._opened.lost += not data
            self._poll.unregister(stream.socket)

    def _is_answered(self, stream: _Stream) -> bool:
        """Whether the first event is here, or a refusal."""
        status = stream.received[9:12]
        if status == SUCCESS:
            at = stream.received.find(b"data: ")
            if at < 0 or stream.received.find(b"\n\n", at) < 0:
                return False
            self._opened.first_event_seconds.append(time.perf_counter() - stream.begun_at)
            stream.request = stream.received = b""
        elif status:
            self._opened.refused[status.decode()] += 1
        return bool(status)
