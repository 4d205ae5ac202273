"""The crowd as Locust users, to be grown slowly and watched in a browser.

Each user takes the next token of the file SHOP_TOKENS, waits for the sale SHOP_SALE, buys one unit, follows the order,
and leaves. `loadtests.crowd.rush` is the faster crowd, and the one whose record proves something.
"""

import os
import time
import uuid
from collections.abc import Callable
from itertools import count
from pathlib import Path

from locust import FastHttpUser, constant, events, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.exception import StopUser

from loadtests.client.answers import (
    NOT_ENOUGH_UNITS,
    OVER_LIMIT,
    SALE_ENDED,
    SALE_NOT_STARTED,
    SOLD_OUT,
    Answer,
    read_answer,
)
from loadtests.client.http import Response
from loadtests.client.purchases import purchase_path

TOKENS_VARIABLE, SALE_VARIABLE = "SHOP_TOKENS", "SHOP_SALE"
TRIES_MAX = 1_000
POLLS_MAX = 20
PAUSE_SECONDS = 1.0

# What a fair sale answers: these are results, not failures of the run.
EXPECTED_CODES = {SOLD_OUT, NOT_ENOUGH_UNITS, OVER_LIMIT, SALE_ENDED}
WAIT_CODES = {SALE_NOT_STARTED, "sale_paused", "rate_limited", "overloaded", "not_ready"}

_tokens: list[str] = []
_taken = count()


def read_tokens(**_: object) -> None:
    """Read the tokens before the first user starts: without them a run makes no sense."""
    path = os.environ.get(TOKENS_VARIABLE)
    if not path or SALE_VARIABLE not in os.environ:
        raise SystemExit(f"set {TOKENS_VARIABLE} to a file of `user_id token` lines and {SALE_VARIABLE} to a sale's id")
    _tokens[:] = [line.split()[1] for line in Path(path).read_text("ascii").splitlines() if line.strip()]


# Locust leaves this function without types.
_at_test_start: Callable[..., object] = events.test_start.add_listener
_at_test_start(read_tokens)


class Shopper(FastHttpUser):  # type: ignore[misc, unused-ignore] # Locust is in a group of its own.
    """Somebody who wants one unit. More users than tokens leave again at once."""

    wait_time = constant(0)

    def on_start(self) -> None:
        number = next(_taken)
        if number >= len(_tokens):
            raise StopUser
        self.headers = {"Authorization": f"Bearer {_tokens[number]}"}
        self.purchase_headers = {**self.headers, "Idempotency-Key": str(uuid.uuid4())}
        self.sale_id = int(os.environ[SALE_VARIABLE])

    @task  # type: ignore[untyped-decorator, unused-ignore]
    def shop(self) -> None:
        """Buy once, then follow the order. Locust has made `time.sleep` one that lets the other users go on."""
        if order := self.buy():
            order_id, poll_after_ms = order
            time.sleep(poll_after_ms / 1000)
            self.follow(order_id)
        raise StopUser

    def buy(self) -> tuple[str, int] | None:
        """Ask with the same key until the answer is final: the order's id and poll_after_ms, or None if refused."""
        for _ in range(TRIES_MAX):
            with self.client.post(
                purchase_path(self.sale_id),
                json={"quantity": 1},
                headers=self.purchase_headers,
                name="/v1/seckill/sales/{sale_id}/orders",
                catch_response=True,
            ) as response:
                if response.status_code in (200, 201, 202):
                    order = response.json()
                    return order["id"], order.get("poll_after_ms", 0)
                answer = answer_of(response)
                if answer.code in EXPECTED_CODES:
                    response.success()
                    return None
                if answer.code in WAIT_CODES:
                    response.success()
                elif 400 <= response.status_code < 500:
                    return None
            time.sleep(answer.wait_seconds or PAUSE_SECONDS)
        return None

    def follow(self, order_id: str) -> None:
        """Look at the order until the shop answers with it: it is never 404 for its buyer."""
        for _ in range(POLLS_MAX):
            with self.client.get(
                f"/v1/orders/{order_id}", headers=self.headers, name="/v1/orders/{order_id}", catch_response=True
            ) as response:
                if response.status_code == 200:
                    return
                if response.status_code in (429, 503):
                    response.success()
            time.sleep(answer_of(response).wait_seconds or PAUSE_SECONDS)


def answer_of(response: ResponseContextManager) -> Answer:
    """What an answer means, as every crowd reads it."""
    headers = {name.lower().encode(): value.encode() for name, value in (response.headers or {}).items()}
    return read_answer(Response(response.status_code, headers, response.content or b""))
