"""Random HTTP/1.1, good and bad, cut anywhere; and what h11, which was written by others, reads from it."""

from collections.abc import Iterator
from typing import NamedTuple

import h11
from hypothesis import strategies as st

TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_!#$%&'*+.^`|~", min_size=1, max_size=12)
VALUES = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=20)
BODIES = st.binary(max_size=60)
# Lines that stand between two others in no request of a decent client.
STRANGE_LINES = (
    b"Content-Length: 5",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length : 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b"Host: other",
    b"Connection: close",
    b" folded",
    b"X-Nul: \0",
    b"X-Cr: a\rb",
    b"no colon",
    b": no name",
    b"Name with space: 1",
)


class Read(NamedTuple):
    """One request as it was understood."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@st.composite
def requests(draw: st.DrawFn, *, extra: bytes = b"") -> bytes:
    """A request that every server must understand, and `extra` among its lines."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH"]))
    target = b"/" + draw(st.text("abc/._-~%41?=&", max_size=12)).replace("%", "%41").encode()
    lines = [b"Host: shop"]
    lines += [f"X-{name}: {value}".encode() for name, value in draw(st.lists(st.tuples(TOKENS, VALUES), max_size=4))]
    body = draw(BODIES)
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        body = draw(chunks(body))
    else:
        body = b""
    if extra:
        lines.insert(draw(st.integers(0, len(lines))), extra)
    return method + b" " + target + b" HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """The body in chunks, with extensions and a trailer where the dice say so."""
    found = b""
    while body:
        count = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
        found += b"%x%b\r\n%b\r\n" % (count, extension, body[:count])
        body = body[count:]
    return found + b"0\r\n" + draw(st.sampled_from([b"", b"X-Trailer: yes\r\n"])) + b"\r\n"


@st.composite
def bad_streams(draw: st.DrawFn) -> bytes:
    """Requests of which one has a strange line, or of which a few bytes are others."""
    before = draw(st.lists(requests(), max_size=2))
    spoiled = draw(requests(extra=draw(st.sampled_from((b"", *STRANGE_LINES)))))
    stream = bytearray(b"".join([*before, spoiled, *draw(st.lists(requests(), max_size=2))]))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(stream) - 1))
        other = draw(st.sampled_from([b"", b"\r", b"\n", b"\0", b" ", b":", b"\t", b"0", b"\xff", b"\r\n"]))
        stream[at : at + 1] = other
    return bytes(stream)


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """The stream in a few pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


def read_by_h11(stream: bytes) -> Iterator[Read]:
    """The requests that h11 reads, up to the first that it refuses or that is not complete."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(stream)
    try:
        while isinstance(request := connection.next_event(), h11.Request):
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
            if not isinstance(event, h11.EndOfMessage):
                return
            # ASGI does not know an empty query from none.
            target = request.target.removesuffix(b"?") if request.target.count(b"?") == 1 else request.target
            yield Read(request.method, target, tuple(request.headers), body)
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except h11.ProtocolError:
        return
