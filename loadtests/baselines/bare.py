"""Answering at all: the smallest ASGI application that takes the purchase and sends an answer of the shop's size.

`BENCH_ANSWER` names a file with an answer of the shop as it was sent; the same bytes go to everybody.

    uvicorn loadtests.baselines.bare:app --port 8001
"""

import os
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

DEFAULT = b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
SERVERS_OWN = {b"date", b"server"}


def _messages(answer: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    headers = [(name, value) for name, value in lines if name.lower() not in SERVERS_OWN]
    start = {"type": "http.response.start", "status": 202, "headers": headers}
    return start, {"type": "http.response.body", "body": body}


_file = os.environ.get("BENCH_ANSWER")
START, BODY = _messages(Path(_file).read_bytes() if _file else DEFAULT)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, answer."""
    if scope["type"] == "http":
        await receive()
        await send(START)
        await send(BODY)
