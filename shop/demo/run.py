"""The course of the demo: a rush, what the buyers do with their orders, a second rush for what came back, the proof."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import NoReturn

from rich.console import Console

from loadtests.crowd.customers import Customer, Fate, draw_fates, write_customers
from loadtests.crowd.record import CrowdRecord, read_record, summarize
from loadtests.judge import afterlife
from loadtests.judge.report import json_line, print_afterlife, print_summary
from loadtests.judge.retries import retry
from shop import terminal
from shop.demo import proof
from shop.demo.crowds import run_customers, run_rush
from shop.demo.stage import ADMIN_EMAIL, ADMIN_PASSWORD, Stage, hold_seconds, set_up
from shop.local import LocalShop, local_shop
from shop.settings import Settings

# Webhooks get lost, doubled and mixed up, as in the world; nothing of it may be seen in the proof.
PROVIDER_FAULTS = ("--lose", "0.05", "--duplicate", "0.05", "--reorder", "0.05")
CHECK_SECONDS = 0.2


@dataclass(frozen=True)
class DemoPlan:
    """How large the demo is."""

    units: int
    shoppers: int
    processes: int
    connections: int
    seed: int

    @property
    def second_wave(self) -> int:
        """The shoppers who come for the units that were returned."""
        return max(1, self.shoppers // 5)


def run_demo(plan: DemoPlan, settings: Settings, *, stay: bool, as_json: bool) -> bool:
    """Run the sale and print the proof; True when everything holds. Raises ServerUnavailable or NotStarted."""
    console = terminal.console(stderr=as_json)
    with (
        _terminated_by_exception(),
        local_shop(
            settings, None, api_processes=plan.processes, provider=PROVIDER_FAULTS, notice=console.print
        ) as shop,
    ):
        console.print(f"Shop at {shop.base_url}, {plan.shoppers:,} shoppers for {plan.units:,} units")
        stage = asyncio.run(set_up(shop, units=plan.units, waves=(plan.shoppers, plan.second_wave)))
        first = _rush(shop, plan, stage, 0, console)
        verdict = asyncio.run(proof.verdict(shop, stage.sale_id, first))
        print_summary(verdict, console)
        after = _afterlife(shop, plan, stage, first, console)
        print_afterlife(after, console)
        if stay:
            _stay(shop, stage, console)
    if as_json:
        print(json_line(verdict, after), flush=True)  # noqa: T201 - this is the command's output
    return verdict.ok and after.ok


def _rush(shop: LocalShop, plan: DemoPlan, stage: Stage, wave: int, console: Console) -> CrowdRecord:
    record_file = shop.directory / f"record-{wave}.jsonl"
    units = plan.units if wave == 0 else asyncio.run(proof.available(shop, stage.sale_id))
    run_rush(
        shop,
        sale_id=stage.sale_id,
        tokens=stage.tokens[wave],
        record_file=record_file,
        seed=plan.seed + wave,
        connections=plan.connections,
        units=units,
        console=console,
    )
    return read_record(record_file)


def _afterlife(
    shop: LocalShop, plan: DemoPlan, stage: Stage, first: CrowdRecord, console: Console
) -> afterlife.Afterlife:
    """Let the buyers pay, be declined, cancel or forget; refund a few; sell again what came back; close the books."""
    tokens = stage.token_of()
    orders = asyncio.run(proof.live_orders(shop, stage.sale_id))
    customers = draw_fates([(order_id, tokens[user_id]) for order_id, user_id in orders], seed=plan.seed)
    console.print(f"\n{len(customers):,} buyers pay, are declined first, cancel, or forget; holds last"
                  f" {hold_seconds(plan.units):g} s")  # fmt: skip
    closed_within = hold_seconds(plan.units) + proof.CLOSE_SECONDS_MAX
    told = _visit(shop, customers, "customers.txt", console)
    asyncio.run(proof.refund_some(shop, stage, plan.units))
    asyncio.run(proof.until_closed(shop, stage.sale_id, within=closed_within))
    returned = asyncio.run(proof.available(shop, stage.sale_id))
    console.print(f"{returned:,} units came back; {plan.second_wave:,} new shoppers rush for them")
    second = _rush(shop, plan, stage, 1, console)
    again = asyncio.run(proof.unpaid_orders(shop, stage.sale_id))
    payers = [Customer(order_id, tokens[user_id], Fate.PAY) for order_id, user_id in again]
    told += _visit(shop, payers, "second-customers.txt", console)
    asyncio.run(proof.until_closed(shop, stage.sale_id, within=closed_within))
    retries = asyncio.run(retry(shop.base_url, stage.sale_id, [*first.attempts, *second.attempts], tokens))
    return asyncio.run(
        proof.after(
            shop,
            stage.sale_id,
            returned=returned,
            both=_together(first, second),
            second=summarize(second),
            customers=told,
            retries=retries,
        )
    )


def _visit(shop: LocalShop, customers: list[Customer], name: str, console: Console) -> Counter[str]:
    write_customers(shop.directory / name, customers)
    return run_customers(shop, shop.directory / name, len(customers), console)


def _together(first: CrowdRecord, second: CrowdRecord) -> CrowdRecord:
    """Both crowds as one, for what must hold of all promises."""
    return replace(
        first,
        shoppers=first.shoppers + second.shoppers,
        complete=first.complete and second.complete,
        outcomes=first.outcomes + second.outcomes,
        attempts=first.attempts + second.attempts,
    )


def _stay(shop: LocalShop, stage: Stage, console: Console) -> None:
    console.print(f"\nThe shop stays up until Ctrl-C:  {shop.base_url}/docs   metrics {shop.metrics_url}")
    console.print(f"provider {shop.provider_url}/sandbox/summary")
    console.print(f"admin    {ADMIN_EMAIL} / {ADMIN_PASSWORD}\nadmin token    {stage.admin_token}", soft_wrap=True)
    console.print(f"shopper token  {stage.shopper_token}", soft_wrap=True)
    try:
        while True:
            time.sleep(CHECK_SECONDS)
            shop.check()
    except KeyboardInterrupt:
        console.print("stopping")


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Within it SIGTERM is a KeyboardInterrupt, so that every server is stopped on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
