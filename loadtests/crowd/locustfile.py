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

TOKENS_VARIABLE, SALE_VARIABLE = "SHOP_TOKENS", "SHOP_SALE"
TRIES_MAX = 1_000
POLLS_MAX = 20
PAUSE_SECONDS = 1.0

# What a fair sale answers: these are results, not failures of the run.
EXPECTED_CODES = {"sold_out", "not_enough_units", "over_limit", "sale_ended"}
WAIT_CODES = {"sale_not_started", "sale_paused", "rate_limited", "overloaded", "not_ready"}

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
        self.sale_id = os.environ[SALE_VARIABLE]

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
                f"/v1/seckill/sales/{self.sale_id}/orders",
                json={"quantity": 1},
                headers=self.purchase_headers,
                name="/v1/seckill/sales/{sale_id}/orders",
                catch_response=True,
            ) as response:
                if response.status_code in (200, 201, 202):
                    order = response.json()
                    return order["id"], order.get("poll_after_ms", 0)
                code = code_of(response)
                if code in EXPECTED_CODES:
                    response.success()
                    return None
                if code in WAIT_CODES:
                    response.success()
                elif 400 <= response.status_code < 500:
                    return None
            time.sleep(retry_after(response))
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
            time.sleep(retry_after(response))


def code_of(response: ResponseContextManager) -> str:
    """The code of a refusal, or '' for an answer that is not the shop's."""
    try:
        return str(response.json().get("code", ""))
    except (ValueError, AttributeError):
        return ""


def retry_after(response: ResponseContextManager) -> float:
    """How many seconds the shop wants to be left alone."""
    value = str(response.headers.get("Retry-After", "") if response.headers else "")
    return float(value) if value.isdigit() else PAUSE_SECONDS
