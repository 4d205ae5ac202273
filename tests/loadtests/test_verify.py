"""The proof after a run: each figure is right after a good run, and turns wrong when the thing it counts happens."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import UUID

import msgspec
import pytest
from rich.console import Console
from sqlalchemy.exc import NoResultFound

from loadtests.crowd.record import Attempt, CrowdRecord
from loadtests.judge.report import json_line, print_summary
from loadtests.judge.verify import Verdict, thresholds, verify
from shop.database import Database
from shop.orders.models import Order, OrderLine, OrderStatus
from shop.products.models import Product
from shop.sales.models import Sale, SaleStatus

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
AUDITED = {"I1": True, "I2": True, "I3": True, "I4": True, "I5": True}


@dataclass(frozen=True)
class Rushed:
    """A sale of three units that five shoppers rushed: the first three have an order each."""

    database: Database
    product_id: int
    sale_id: int
    record: CrowdRecord

    def order_id(self, number: int, *, neighbour: int = 0) -> UUID:
        return UUID(int=(self.sale_id + neighbour << 96) + (8 << 76) + (2 << 62) + number)

    async def write(
        self,
        number: int,
        *,
        user: int | None = None,
        quantity: int = 1,
        line_quantity: int | None = None,
        released: bool = False,
        replaces: int | None = None,
        neighbour: int = 0,
    ) -> None:
        """Write an order and its line, by default one unit of the user with the same number, and live.

        A neighbour is what the id of the order's sale differs by; such an order need not have a sale to be in the way.
        """
        order = Order(
            id=self.order_id(number, neighbour=neighbour),
            sale_id=None if neighbour else self.sale_id,
            epoch=1,
            seq=number,
            user_id=f"user-{number if user is None else user}",
            status=OrderStatus.CANCELLED if released else OrderStatus.RESERVED,
            quantity=quantity,
            total_minor=100 * quantity,
            currency="EUR",
            reserved_at=NOW,
            recorded_at=NOW,
            expires_at=NOW + timedelta(minutes=15),
            closed_at=NOW if released else None,
            released_at=NOW if released else None,
            replaces=None if replaces is None else self.order_id(replaces),
        )
        line = OrderLine(
            order_id=order.id,
            line=1,
            product_id=self.product_id,
            quantity=quantity if line_quantity is None else line_quantity,
            price_minor=100,
        )
        async with self.database.transaction() as session:
            session.add(order)
            await session.flush()
            session.add(line)

    async def delete(self, number: int) -> None:
        async with self.database.transaction() as session:
            await session.delete(await session.get_one(OrderLine, (self.order_id(number), 1)))
            await session.flush()
            await session.delete(await session.get_one(Order, self.order_id(number)))

    async def verify(self, *more: Attempt, without: Sequence[Attempt] = ()) -> Verdict:
        """The verdict on the good run's record with these attempts added or taken away."""
        kept = tuple(attempt for attempt in self.record.attempts if attempt not in without)
        async with self.database.transaction() as session:
            return await verify(
                session,
                sale_id=self.sale_id,
                record=replace(self.record, attempts=(*kept, *more)),
                invariants=AUDITED,
                drain_seconds=0.25,
            )


def attempt(user: int, status: int, code: str, order_id: UUID | None = None, *, key: str | None = "own") -> Attempt:
    """An attempt of a shopper who is the only one of its user; answered after 10 ms."""
    own_key = f"key-{user}" if key == "own" else key
    return Attempt(user, f"user-{user}", own_key, status, code, None if order_id is None else str(order_id), 1.0, 1.01)


@pytest.fixture
async def rushed(database: Database) -> Rushed:
    """A good run: three orders, one of them promised twice; two shoppers too late, one of them limited before."""
    async with database.transaction() as session:
        product = Product(name="Lamp", price_minor=100, currency="EUR")
        session.add(product)
        await session.flush()
        sale = Sale(
            product_id=product.id,
            name="Lamps",
            units=3,
            units_taken=3,
            price_minor=100,
            currency="EUR",
            starts_at=NOW,
            ends_at=NOW + timedelta(hours=1),
            status=SaleStatus.SCHEDULED,
            salt=b"salt",
        )
        session.add(sale)
    empty = CrowdRecord(
        sale_id=sale.id, seed=1, shoppers=5, complete=True, elapsed_seconds=1.0, outcomes=(), attempts=()
    )
    rushed_sale = Rushed(database, product.id, sale.id, empty)
    for number in (1, 2, 3):
        await rushed_sale.write(number)
    attempts = (
        attempt(1, 202, "reserved", rushed_sale.order_id(1)),
        attempt(2, 202, "reserved", rushed_sale.order_id(2)),
        attempt(2, 200, "replayed", rushed_sale.order_id(2)),
        attempt(3, 202, "reserved", rushed_sale.order_id(3), key=None),
        attempt(4, 429, "rate_limited"),
        attempt(4, 409, "sold_out"),
        attempt(5, 409, "sold_out"),
    )
    outcomes = ("reserved", "reserved", "reserved", "sold_out", "sold_out")
    return replace(rushed_sale, record=replace(empty, outcomes=outcomes, attempts=attempts))


def failed(verdict: Verdict) -> set[str]:
    return {threshold.name for threshold in thresholds(verdict) if not threshold.ok}


async def test_a_good_run_is_found_good_and_every_figure_is_its_own(rushed: Rushed) -> None:
    verdict = await rushed.verify()

    assert verdict == Verdict(
        units=3,
        shoppers=5,
        attempts=7,
        reserved=3,
        reservations=3,
        sold_out=2,
        over_limit=0,
        rate_limited=1,
        errors=0,
        persisted=3,
        oversold=0,
        lost=0,
        duplicated=0,
        attempts_per_second=700.0,
        reserve_p50_ms=10.0,
        reserve_p99_ms=10.0,
        drain_seconds=0.25,
        invariants={**AUDITED, "I6": True, "I9": True},
    )
    assert verdict.ok


async def test_a_promised_order_without_a_row_is_lost(rushed: Rushed) -> None:
    await rushed.delete(2)

    verdict = await rushed.verify()

    assert (verdict.lost, verdict.reserved, verdict.invariants["I6"]) == (1, 2, False)
    assert failed(verdict) == {"no promised order lost", "every unit sold", "I6 every promise has its row"}


async def test_an_order_that_was_given_back_since_is_not_lost(rushed: Rushed) -> None:
    await rushed.write(6, user=1, released=True)

    verdict = await rushed.verify(attempt(1, 202, "reserved", rushed.order_id(6), key="another"))

    assert (verdict.lost, verdict.reserved, verdict.reservations, verdict.oversold) == (0, 3, 4, 0)
    assert verdict.ok


async def test_a_promise_that_was_written_down_for_somebody_else_is_broken(rushed: Rushed) -> None:
    verdict = await rushed.verify(attempt(5, 200, "replayed", rushed.order_id(1)))

    assert verdict.lost == 0
    assert not verdict.invariants["I6"]


async def test_a_row_whose_lines_do_not_add_up_is_no_kept_promise(rushed: Rushed) -> None:
    await rushed.delete(3)
    await rushed.write(3, line_quantity=2)

    verdict = await rushed.verify()

    assert (verdict.reserved, verdict.persisted, verdict.invariants["I6"]) == (3, 4, False)
    assert "every unit on a row" in failed(verdict)


async def test_live_orders_beyond_the_units_are_oversold_though_the_guard_row_is_satisfied(rushed: Rushed) -> None:
    await rushed.write(4, quantity=2)

    verdict = await rushed.verify(attempt(4, 202, "reserved", rushed.order_id(4)))

    assert verdict.oversold == 2
    assert {"nothing oversold", "every unit sold"} <= failed(verdict)


@pytest.mark.parametrize("key", ["own", None])
async def test_a_click_that_was_promised_two_orders_is_duplicated(rushed: Rushed, key: str | None) -> None:
    await rushed.delete(3)
    await rushed.write(6, user=1, released=True)
    await rushed.write(7, user=1, released=True)

    verdict = await rushed.verify(
        attempt(1, 202, "reserved", rushed.order_id(6), key=key),
        attempt(1, 202, "reserved", rushed.order_id(7), key=key),
    )

    assert verdict.duplicated == 1
    assert "no click sold twice" in failed(verdict)


async def test_a_buyer_above_the_limit_is_duplicated_once_however_it_came_about(rushed: Rushed) -> None:
    await rushed.write(6, user=1)

    two_clicks = await rushed.verify(attempt(1, 202, "reserved", rushed.order_id(6), key="another"))
    one_click = await rushed.verify(attempt(1, 202, "reserved", rushed.order_id(6)))

    assert (two_clicks.duplicated, one_click.duplicated) == (1, 1)


async def test_a_live_row_that_no_answer_named_breaks_i9_unless_its_buyer_is_in_doubt(rushed: Rushed) -> None:
    await rushed.delete(3)
    await rushed.write(8, user=5)
    promise = attempt(3, 202, "reserved", rushed.order_id(3), key=None)

    refused = await rushed.verify(without=[promise])
    in_doubt = await rushed.verify(attempt(5, 0, "hung_up"), without=[promise])
    told_to_wait = await rushed.verify(attempt(5, 503, "overloaded"), without=[promise])

    assert [v.invariants["I9"] for v in (refused, in_doubt, told_to_wait)] == [False, True, False]
    assert failed(refused) == {"I9 no row without a promise"}


async def test_late_money_buys_a_row_that_needs_no_promise_of_its_own_but_one_of_the_order_it_replaces(
    rushed: Rushed,
) -> None:
    await rushed.delete(3)
    await rushed.write(3, released=True)
    await rushed.write(8, user=3, replaces=3)

    assert (await rushed.verify()).ok
    unpromised = await rushed.verify(without=[attempt(3, 202, "reserved", rushed.order_id(3), key=None)])
    assert failed(unpromised) == {"I9 no row without a promise"}


async def test_rows_of_the_neighbouring_sales_are_not_counted(rushed: Rushed) -> None:
    for neighbour in (-1, 1):
        await rushed.write(9, neighbour=neighbour)

    assert (await rushed.verify()).ok


async def test_a_broken_invariant_of_the_audit_fails_the_run(rushed: Rushed) -> None:
    async with rushed.database.transaction() as session:
        verdict = await verify(
            session, sale_id=rushed.sale_id, record=rushed.record, invariants={"I3": False}, drain_seconds=0
        )

    assert not verdict.ok
    assert failed(verdict) == {"I3 units are conserved"}


async def test_shoppers_without_a_proper_answer_fail_the_run(rushed: Rushed) -> None:
    verdict = replace(await rushed.verify(), errors=1)

    assert failed(verdict) == {"every shopper answered"}


async def test_fewer_shoppers_than_units_have_sold_all_they_could(rushed: Rushed) -> None:
    verdict = await rushed.verify()

    assert replace(verdict, units=10).ok is False
    assert replace(verdict, units=10, shoppers=4, over_limit=1).ok


async def test_a_sale_that_does_not_exist_cannot_be_verified(rushed: Rushed) -> None:
    async with rushed.database.transaction() as session:
        with pytest.raises(NoResultFound):
            await verify(session, sale_id=999_999, record=rushed.record, invariants={}, drain_seconds=0)


async def test_the_json_line_has_the_keys_of_the_verdict_in_one_line(rushed: Rushed) -> None:
    verdict = await rushed.verify()

    line = json_line(verdict)

    assert "\n" not in line
    assert list(msgspec.json.decode(line)) == [field.name for field in fields(Verdict)]
    assert msgspec.json.decode(line, type=Verdict) == verdict


async def test_the_screen_shows_the_thresholds_first_and_no_colours_where_they_are_unwanted(
    rushed: Rushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    verdict = await rushed.verify()
    good, bad = StringIO(), StringIO()

    print_summary(verdict, Console(file=good, force_terminal=True, width=100))
    print_summary(replace(verdict, lost=2, reserve_p50_ms=None), Console(file=bad, width=100))

    assert good.getvalue().index("✓ nothing oversold") < good.getvalue().index("shoppers")
    assert "✓ everything holds" in good.getvalue()
    assert not any(f"\x1b[{colour}" in good.getvalue() for colour in ("31m", "32m", "1;31m", "1;32m"))
    assert "✗ no promised order lost" in bad.getvalue()
    assert "✗ failed: no promised order lost" in bad.getvalue()
