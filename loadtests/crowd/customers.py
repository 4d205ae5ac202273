"""`python -m loadtests.crowd.customers`: what buyers do with their orders: pay, be declined first, cancel, forget."""

import asyncio
import itertools
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from loadtests.client.http import Address, HttpError, Pool, Response
from loadtests.crowd.output import write_line

CONNECT_SECONDS_MAX = 5.0
REQUEST_SECONDS_MAX = 20.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.1, 2.0
PROGRESS_SECONDS = 0.1


class Fate(StrEnum):
    """What becomes of an order by its buyer's will."""

    PAY = "pay"
    DECLINED_ONCE = "declined_once"
    CANCEL = "cancel"
    FORGET = "forget"


SHARES: Mapping[Fate, float] = {Fate.PAY: 0.7, Fate.DECLINED_ONCE: 0.1, Fate.CANCEL: 0.1, Fate.FORGET: 0.1}


class Customer(NamedTuple):
    """An order, its buyer's token, and what the buyer is going to do."""

    order_id: str
    token: str
    fate: Fate


class Refused(Exception):
    """An answer that no customer expects, and that asking again would not change."""


class TooLate(Exception):
    """The order was closed before its buyer came to it: the buyer, or the machine, took longer than the hold."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Where the customers go, and how many connections they share at each place."""

    base_url: str
    provider_url: str
    connections: int = 32
    timeout_seconds: float = 240.0


def draw_fates(orders: Sequence[tuple[str, str]], *, seed: int) -> list[Customer]:
    """Customers of these pairs (order id, token), in the given shares; the seed decides who is who."""
    fates = [fate for fate, share in SHARES.items() for _ in range(round(share * len(orders)))]
    fates = (fates + [Fate.PAY] * len(orders))[: len(orders)]
    random.Random(seed).shuffle(fates)  # noqa: S311 - it must be repeatable
    return [Customer(order_id, token, fate) for (order_id, token), fate in zip(orders, fates, strict=True)]


async def visit(
    plan: Visit, customers: Sequence[Customer], on_progress: Callable[[Counter[str]], None]
) -> Counter[str]:
    """Let everyone do what they want; how many had each fate, came too `late` for it, and `failed` in it."""
    places = _Places(plan)
    told: Counter[str] = Counter()

    async def one(customer: Customer) -> None:
        try:
            await places.do(customer)
            told[customer.fate] += 1
        except TooLate:
            told["late"] += 1
        except Refused as error:
            told["failed"] += 1
            sys.stderr.write(f"{customer.fate} of {customer.order_id}: {error}\n")

    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            on_progress(told)

    reporting = asyncio.create_task(report())
    try:
        async with asyncio.timeout(plan.timeout_seconds), asyncio.TaskGroup() as group:
            for customer in customers:
                group.create_task(one(customer))
    except TimeoutError:
        told["failed"] += len(customers) - told.total()
    finally:
        reporting.cancel()
        places.close()
    return told


class _Places:
    """The shop and the provider, as customers see them."""

    def __init__(self, plan: Visit) -> None:
        self._shop, self._provider = Address.of(plan.base_url), Address.of(plan.provider_url)
        self._pools = {
            address: Pool(address, size=plan.connections, connect_timeout_seconds=CONNECT_SECONDS_MAX)
            for address in (self._shop, self._provider)
        }

    async def do(self, customer: Customer) -> None:
        """Raises Refused or TooLate."""
        match customer.fate:
            case Fate.CANCEL:
                await self._ask_shop(customer, "cancel", {200})
            case Fate.PAY | Fate.DECLINED_ONCE:
                started = await self._ask_shop(customer, "payment", {200, 201})
                intent_id = str(msgspec.json.decode(started.body)["pay_url"]).rsplit("/", 1)[1]
                if customer.fate == Fate.DECLINED_ONCE:
                    await self._press(intent_id, "decline", {402})
                await self._press(intent_id, "pay", {200})
            case Fate.FORGET:
                return

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    async def _ask_shop(self, customer: Customer, verb: str, expected: set[int]) -> Response:
        headers = {"Authorization": f"Bearer {customer.token}", "Idempotency-Key": f"{verb}-{customer.order_id}"}
        request = self._shop.request("POST", f"/v1/orders/{customer.order_id}/{verb}", headers=headers)
        return await self._ask(self._shop, request, expected)

    async def _press(self, intent_id: str, outcome: str, expected: set[int]) -> Response:
        body = msgspec.json.encode({"outcome": outcome})
        headers = {"Content-Type": "application/json"}
        request = self._provider.request("POST", f"/v1/intents/{intent_id}/attempts", headers=headers, body=body)
        return await self._ask(self._provider, request, expected)

    async def _ask(self, address: Address, request: bytes, expected: set[int]) -> Response:
        """Ask until there is an answer that is no "come back later". Raises TooLate, or Refused if it is unexpected."""
        for tries in itertools.count():
            answer = await self._exchange(address, request)
            if answer is not None and answer.status in expected:
                return answer
            if answer is not None and _is_too_late(answer):
                raise TooLate
            if answer is not None and answer.status not in {429, 503, 504}:
                raise Refused(f"{answer.status} {answer.body[:200]!r}")
            await asyncio.sleep(min(PAUSE_SECONDS_MIN * 2.0**tries, PAUSE_SECONDS_MAX))
        raise AssertionError

    async def _exchange(self, address: Address, request: bytes) -> Response | None:
        try:
            return await self._pools[address].exchange(request, timeout_seconds=REQUEST_SECONDS_MAX)
        except HttpError:
            return None


def _is_too_late(answer: Response) -> bool:
    """Whether the shop has closed the order, or its payment at the provider."""
    return answer.status == 409 and msgspec.json.decode(answer.body).get("code") in {"order_closed", "intent_cancelled"}


def write_customers(path: Path, customers: Sequence[Customer]) -> None:
    """Write one line a customer: order id, token, fate."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{' '.join(customer)}\n" for customer in customers))


def read_customers(path: Path) -> list[Customer]:
    """Read what `write_customers` wrote. Raises ValueError that names the line which is something else."""
    customers = []
    for number, text in enumerate(path.read_text("ascii").splitlines(), 1):
        parts = text.split()
        if len(parts) != 3 or parts[2] not in set(Fate):
            raise ValueError(f"{path}:{number}: expected `order_id token fate`")
        customers.append(Customer(parts[0], parts[1], Fate(parts[2])))
    return customers


app = typer.Typer(add_completion=False)

EXAMPLE = (
    "Example: python -m loadtests.crowd.customers --base-url http://127.0.0.1:8000 --provider-url http://127.0.0.1:8900"
    " --orders orders.txt"
)


@app.command(epilog=EXAMPLE)
def main(
    orders: Annotated[Path, typer.Option(help="Lines of `order_id token fate`.", exists=True)],
    base_url: Annotated[str, typer.Option(help="Where the API listens.")] = "http://127.0.0.1:8000",
    provider_url: Annotated[str, typer.Option(help="Where the sandbox provider listens.")] = "http://127.0.0.1:8900",
    connections: Annotated[int, typer.Option(help="Connections to each of the two.", min=1)] = 32,
    timeout: Annotated[float, typer.Option(help="Seconds until the run ends in any case.", min=0)] = 240.0,
) -> None:
    """Let buyers pay, be declined once and pay, cancel, or forget their orders.

    Writes lines of JSON: {"progress": …} while it runs, {"summary": …} at the end; both count customers by fate, and
    those who came too `late` for it or `failed` in it.
    """
    try:
        customers = read_customers(orders)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    plan = Visit(base_url, provider_url, connections, timeout)
    told = asyncio.run(visit(plan, customers, lambda progress: write_line({"progress": progress})))
    write_line({"summary": told})
    if told["failed"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
