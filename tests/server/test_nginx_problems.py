"""What nginx refuses by itself says so as the shop does: a problem document with the id of the request."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from shop.problem_json import MEDIA_TYPE
from tests.ports import unused_port
from tests.server.nginx import Edge, edge, needs_nginx
from tests.source_tree import ROOT

pytestmark = needs_nginx

ANSWER_SECONDS = 30.0
# The members that every problem document of the shop has.
REQUIRED = set(json.loads((ROOT / "docs" / "openapi.json").read_text())["components"]["schemas"]["Problem"]["required"])
REQUEST_ID = "edge:request-1"


@pytest.fixture(scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """The edge of a shop that is not there."""
    async with edge(tmp_path_factory.mktemp("edge"), apis=[unused_port()], trusted="127.0.9.1") as found:
        yield found


@dataclass(frozen=True)
class Raw:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


async def send(front: Edge, request: bytes) -> Raw:
    """The answer to these bytes, after which nginx may close or not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(request)
    async with asyncio.timeout(ANSWER_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        assert len(headers) == len([line for line in head[1:] if line]), head
        body = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return Raw(int(head[0].split()[1]), headers, body)


def get(target: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: shop", b"X-Request-Id: " + REQUEST_ID.encode(), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (get(b"/v1/products"), 502, "unknown_outcome"),
        (get(b"/v1/users", b"Content-Length: 70000", method=b"POST"), 413, "body_too_large"),
        (get(b"/metrics"), 403, "forbidden"),
        (get(b"/", method=b"TRACE"), 405, "method_not_allowed"),
        (get(b"/" + b"x" * 40_000), 431, "head_too_large"),
        (get(b"/", b"X-Long: " + b"x" * 40_000), 431, "head_too_large"),
        (get(b"/", b"Content-Length: many", method=b"POST"), 400, "bad_request"),
        (get(b"/", b"Host: another"), 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /%zz HTTP/1.1\r\nHost: shop\r\n\r\n", 400, "bad_request"),
        (b"no request at all\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/3.7\r\nHost: shop\r\n\r\n", 400, "bad_request"),
        (get(b"/", b"Transfer-Encoding: br", method=b"POST"), 400, "bad_request"),
    ],
)
async def test_what_nginx_refuses_is_a_problem_document(
    front: Edge, request_bytes: bytes, status: int, code: str
) -> None:
    answer = await send(front, request_bytes)
    problem = msgspec.json.decode(answer.body)

    assert (answer.status, answer.headers["content-type"]) == (status, MEDIA_TYPE)
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"/errors/{code}")
    assert problem.keys() >= REQUIRED
    assert problem["instance"].startswith("/")
    assert re.fullmatch(r"[A-Za-z0-9_.:-]{1,128}", problem["request_id"])
    assert answer.headers["x-request-id"] == problem["request_id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert problem["retryable"] == ("retry-after" in answer.headers) == (status == 502)


@pytest.mark.parametrize(
    ("target", "instance"),
    [(b"/v1/products/1?page=2", "/v1/products/1"), (b'/v1/"x', "/"), (b"/v1/x\\", "/"), (b"/\xc3\xbc", "/")],
)
async def test_a_path_that_would_have_to_be_escaped_is_left_out(front: Edge, target: bytes, instance: str) -> None:
    answer = await send(front, get(target))

    assert msgspec.json.decode(answer.body)["instance"] == instance


async def test_a_request_keeps_its_name_where_nginx_answers(front: Edge) -> None:
    """With what the shop takes for a name too, and a new one for what could harm a log."""
    kept = await send(front, get(b"/v1/products"))
    replaced = await send(front, get(b"/v1/products").replace(REQUEST_ID.encode(), b'"two words'))

    assert kept.headers["x-request-id"] == REQUEST_ID
    assert re.fullmatch("[0-9a-f]{32}", replaced.headers["x-request-id"])


async def test_a_shop_that_does_not_answer_in_time_is_an_unknown_outcome(tmp_path: Path) -> None:
    """504: nobody says that nothing was done. It listens, and accepts nobody."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with edge(tmp_path, apis=[port], trusted="127.0.9.1") as front:
            answer = await send(front, get(b"/v1/orders", b"Content-Length: 0", method=b"POST"))
        for filler in fillers:
            filler.close()

    assert (answer.status, msgspec.json.decode(answer.body)["code"]) == (504, "unknown_outcome")
    assert answer.headers["retry-after"] == "2"
