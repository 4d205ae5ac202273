"""What happens is collected once, whatever the order of commits, and costs nothing while nobody listens."""

from uuid import UUID

import pytest
from sqlalchemy import insert, select, text, update

from shop.database import Database
from shop.notifications.collecting.collector import collect, collect_batch
from shop.notifications.collecting.repository import lock_position
from shop.notifications.kinds import Kind, Sink
from shop.notifications.models import CollectorSale, Notification
from shop.orders.life import By, move, note
from shop.orders.models import Order, OrderEvent, OrderStatus
from shop.products import repository as products
from shop.sales.models import LedgerRow, Sale
from shop.settings import Settings
from shop.users import service as users
from tests.harness import Shop, wait_until
from tests.notifications.outbox import (
    bring_near,
    deliveries,
    drain,
    make_order,
    make_sale,
    make_user,
    make_webhook,
    move_order,
    told,
)
from tests.processes import copy_of

MOVES = {
    Kind.PAID: [OrderStatus.PAID],
    Kind.CANCELLED: [OrderStatus.CANCELLED],
    Kind.EXPIRED: [OrderStatus.EXPIRED],
    Kind.REFUNDED: [OrderStatus.PAID, OrderStatus.REFUNDED],
}


@pytest.fixture
def listening(settings: Settings) -> Settings:
    """Everything is told, to the log."""
    return copy_of(settings, notification_log=True)


@pytest.fixture(autouse=True)
async def _begun(database: Database, settings: Settings) -> None:
    """The collector has its row, as after the first run ever."""
    await collect(database, settings)


async def pay(database: Database, *orders: Order) -> None:
    for order in orders:
        await move_order(database, order, OrderStatus.PAID)


async def until_told(database: Database, settings: Settings, expected: list[tuple[str, UUID | str]]) -> None:
    """Collect until exactly this was told: other sessions of the test server hold back what is newer than they are."""

    async def is_told() -> bool:
        await collect(database, settings)
        return len(await told(database)) >= len(expected)

    await wait_until(is_told, reason=f"{len(expected)} notifications were made")
    assert await told(database) == sorted(expected, key=str)


async def until_passed_by(database: Database, settings: Settings) -> None:
    """Collect until the positions are behind everything that there is; nobody listens."""

    async def passed_by() -> bool:
        assert await collect(database, settings) == 0
        async with database.transaction() as session:
            unread = text(
                "SELECT count(*) FROM collector_position AS position"
                " WHERE event_tx < (SELECT max(tx) FROM order_events) OR user_tx < (SELECT max(tx) FROM users)"
            )
            return not await session.scalar(unread)

    await wait_until(passed_by, reason="the positions have moved")


@pytest.mark.parametrize("kind", MOVES)
async def test_each_move_of_an_order_is_told_once(database: Database, listening: Settings, kind: Kind) -> None:
    order = await make_order(database)
    for status in MOVES[kind]:
        await move_order(database, order, status)

    passed = [Kind.PAID] if kind is Kind.REFUNDED else []
    await until_told(database, listening, [(each, order.id) for each in (Kind.RESERVED, *passed, kind)])
    assert await collect(database, listening) == 0


async def test_purchases_of_a_sale_are_told_from_its_ledger(database: Database, listening: Settings) -> None:
    sale = await make_sale(database)
    first = await drain(database, listening, sale, 3)
    await collect(database, listening)
    second = await drain(database, listening, sale, 4)
    await collect(database, listening)

    assert await told(database) == sorted(((Kind.RESERVED, order) for order in first + second), key=str)


async def begin_epoch(database: Database, sale: Sale) -> None:
    """The sale's second ledger begins, as after a recovery."""
    async with database.transaction() as session:
        row = {"sale": sale.id}
        begun = "INSERT INTO sale_epochs (sale_id, epoch, opening_balance) SELECT id, 2, watermark_balance FROM sales"
        await session.execute(text(f"{begun} WHERE id = :sale"), row)
        await session.execute(text("UPDATE sales SET epoch = 2, watermark = 0 WHERE id = :sale"), row)


async def test_a_new_ledger_of_a_sale_is_read_from_its_beginning(database: Database, listening: Settings) -> None:
    """Its sequence begins at 1 again, which must not look like something that was read."""
    sale = await make_sale(database)
    orders = await drain(database, listening, sale, 3)
    await collect(database, listening)
    await begin_epoch(database, sale)
    orders += await drain(database, listening, sale, 2)

    await collect(database, listening)

    assert await told(database) == sorted(((Kind.RESERVED, order) for order in orders), key=str)


async def test_what_was_left_of_an_old_ledger_is_read_before_the_new_one_has_anything(
    database: Database, listening: Settings
) -> None:
    sale = await make_sale(database)
    orders = await drain(database, listening, sale, 3)
    await begin_epoch(database, sale)

    await collect(database, listening)

    assert await told(database) == sorted(((Kind.RESERVED, order) for order in orders), key=str)


async def test_what_was_quarantined_is_not_told(database: Database, listening: Settings) -> None:
    sale = await make_sale(database)
    first, second = await drain(database, listening, sale, 2)
    async with database.transaction() as session:
        await session.execute(update(LedgerRow).where(LedgerRow.order_id == first).values(quarantined={"why": "test"}))

    await collect(database, listening)

    assert await told(database) == [(Kind.RESERVED, second)]


async def test_more_than_a_batch_is_told_in_one_run(database: Database, listening: Settings) -> None:
    """A batch is bounded, also when it ends in the middle of a ledger or of a transaction."""
    settings = copy_of(listening, notification_batch_max=3)
    one, other = await make_sale(database), await make_sale(database)
    purchases = [*await drain(database, settings, one, 7), *await drain(database, settings, other, 5)]
    paid = [await make_order(database) for _ in range(7)]
    async with database.transaction() as session:
        await move(session, [order.id for order in paid], OrderStatus.PAID, by=By.SHOP, reason="a test")

    expected: list[tuple[str, UUID | str]] = [(Kind.RESERVED, order) for order in purchases]
    expected += [(kind, order.id) for order in paid for kind in (Kind.RESERVED, Kind.PAID)]
    await until_told(database, settings, expected)


async def test_an_event_that_commits_after_a_later_one_is_not_passed_by(
    database: Database, listening: Settings
) -> None:
    """Its number is lower than what was there to be read before it appeared; nothing is lost, nothing doubled."""
    late, early = await make_order(database), await make_order(database)
    reserved: list[tuple[str, UUID | str]] = [(Kind.RESERVED, late.id), (Kind.RESERVED, early.id)]
    await until_told(database, listening, reserved)

    async with database.transaction() as session:
        await move(session, [late.id], OrderStatus.PAID, by=By.SHOP, reason="a test")
        await session.flush()
        await pay(database, early)
        await collect(database, listening)
        assert await told(database) == sorted(reserved, key=str)

    await until_told(database, listening, [*reserved, (Kind.PAID, late.id), (Kind.PAID, early.id)])


async def test_an_event_of_an_older_transaction_with_a_higher_number_is_not_passed_by(
    database: Database, listening: Settings
) -> None:
    """A transaction may have begun to write long before it writes the event."""
    late, early = await make_order(database), await make_order(database)
    reserved: list[tuple[str, UUID | str]] = [(Kind.RESERVED, late.id), (Kind.RESERVED, early.id)]
    await until_told(database, listening, reserved)

    async with database.transaction() as session:
        await products.add(session, name="First", price_minor=1, currency="EUR", stock=1)
        await pay(database, early)
        await collect(database, listening)
        await move(session, [late.id], OrderStatus.PAID, by=By.SHOP, reason="a test")

    await until_told(database, listening, [*reserved, (Kind.PAID, late.id), (Kind.PAID, early.id)])


async def test_two_collectors_at_once_tell_everything_once(database: Database, listening: Settings) -> None:
    order = await make_order(database)
    async with database.transaction() as session:
        assert await lock_position(session)
        assert await collect(database, listening) == 0
        assert await told(database) == []

    await until_told(database, listening, [(Kind.RESERVED, order.id)])


async def test_the_same_thing_read_twice_is_one_notification(database: Database, listening: Settings) -> None:
    """Its id follows from what happened, also when the positions were lost."""
    order = await make_order(database)
    await until_told(database, listening, [(Kind.RESERVED, order.id)])
    async with database.transaction() as session:
        await session.execute(text("UPDATE collector_position SET event_tx = '0', event_id = 0"))

    assert await collect(database, listening) == 0
    assert len(await deliveries(database)) == 1


async def test_unknown_words_of_order_events_are_passed_over(database: Database, listening: Settings) -> None:
    order = await make_order(database)
    async with database.transaction() as session:
        row = {"order_id": order.id, "status": "late_money", "moved_by": "provider", "reason": "a test"}
        await session.execute(insert(OrderEvent), [row])
    await pay(database, order)

    await until_told(database, listening, [(Kind.RESERVED, order.id), (Kind.PAID, order.id)])


async def test_who_gets_their_late_money_back_is_told_so(database: Database, listening: Settings) -> None:
    order = await make_order(database)
    async with database.transaction() as session:
        await note(session, order.id, "money_returned", reason="the order was expired")

    await until_told(database, listening, [(Kind.RESERVED, order.id), (Kind.REFUNDED, order.id)])


async def test_who_registers_is_welcomed_and_accounts_of_load_tests_are_not(
    database: Database, listening: Settings
) -> None:
    user_id = await make_user(database)
    async with database.transaction() as session:
        await users.make_shoppers(session, 3)

    await until_told(database, listening, [(Kind.WELCOME, user_id)])


async def test_a_hold_that_ends_soon_is_called_to_mind_once(database: Database, listening: Settings) -> None:
    soon, later = await make_order(database), await make_order(database)
    await bring_near(database, soon, seconds=listening.expiring_soon_seconds - 10)
    await bring_near(database, later, seconds=listening.expiring_soon_seconds + 100)

    expected = [(Kind.RESERVED, soon.id), (Kind.RESERVED, later.id), (Kind.EXPIRING_SOON, soon.id)]
    await until_told(database, listening, list(expected))
    assert await collect(database, listening) == 0


async def test_a_hold_that_is_over_or_was_short_or_is_paid_is_not_called_to_mind(
    database: Database, listening: Settings
) -> None:
    over, paid = await make_order(database), await make_order(database)
    short = await make_order(database, hold_seconds=2 * listening.expiring_soon_seconds - 1)
    await bring_near(database, over, seconds=-1)
    await bring_near(database, short, seconds=10)
    await bring_near(database, paid, seconds=10)
    await pay(database, paid)
    async with database.transaction() as session:
        await session.execute(text("UPDATE collector_position SET expires_at = now() - interval '1 day'"))

    reserved: list[tuple[str, UUID | str]] = [(Kind.RESERVED, each.id) for each in (over, paid, short)]
    await until_told(database, listening, [*reserved, (Kind.PAID, paid.id)])


async def test_while_nobody_listens_nothing_is_written_for_what_happens(database: Database, settings: Settings) -> None:
    """Only the positions move: who begins to listen is not told of the past."""
    sale = await make_sale(database)
    await drain(database, settings, sale, 20)
    await pay(database, await make_order(database))
    await make_user(database)

    await until_passed_by(database, settings)
    async with database.transaction() as session:
        assert await session.scalar(select(CollectorSale.seq)) == 20
    await collect(database, copy_of(settings, notification_log=True))
    assert await told(database) == []


async def test_a_drain_writes_only_what_it_wrote_without_listeners(database: Database, listening: Settings) -> None:
    """Nothing is added to the transaction that records purchases, whoever listens."""
    sale = await make_sale(database)
    await drain(database, listening, sale, 20)

    assert await told(database) == []
    async with database.transaction() as session:
        assert (await session.scalars(select(OrderEvent))).all() == []


@pytest.mark.parametrize("somebody_listens", [True, False])
async def test_an_idle_collector_writes_nothing(
    database: Database, listening: Settings, settings: Settings, somebody_listens: bool
) -> None:
    """It looks each second, and not even a transaction number is used up by a look."""
    order = await make_order(database)
    await until_told(database, listening, [(Kind.RESERVED, order.id)])
    await until_passed_by(database, settings)

    async with database.transaction() as session:
        await collect_batch(session, listening if somebody_listens else settings)
        assert await session.scalar(text("SELECT pg_current_xact_id_if_assigned()")) is None


async def test_a_webhook_is_told_of_what_it_asked_for_only(database: Database, settings: Settings) -> None:
    await make_webhook(database, events=[Kind.PAID])
    everything = await make_webhook(database)
    order = await make_order(database)
    await pay(database, order)

    await until_told(database, settings, [(Kind.RESERVED, order.id), (Kind.PAID, order.id)])
    found = [(each.sink, each.webhook_id) for each in await deliveries(database)]
    assert len(found) == 3
    assert found.count((Sink.WEBHOOK, everything.id)) == 2


async def test_what_no_webhook_asked_for_is_not_kept(database: Database, settings: Settings) -> None:
    await make_webhook(database, events=[Kind.PAID])
    sale = await make_sale(database)
    await drain(database, settings, sale, 5)
    await make_user(database)
    order = await make_order(database)
    await pay(database, order)

    await until_told(database, settings, [(Kind.PAID, order.id)])


async def test_a_webhook_is_told_of_what_happened_after_it_was_made_though_nobody_listened_before(
    database: Database, settings: Settings
) -> None:
    before = await make_order(database)
    await until_passed_by(database, settings)
    await make_webhook(database)
    after = await make_order(database)

    await until_told(database, settings, [(Kind.RESERVED, after.id)])
    assert before.id != after.id


async def test_a_notification_says_what_was_ordered(database: Database, listening: Settings) -> None:
    order = await make_order(database, name="Lamp")
    await until_told(database, listening, [(Kind.RESERVED, order.id)])

    async with database.transaction() as session:
        payload = (await session.scalars(select(Notification.payload))).one()

    assert payload["type"] == "order.reserved"
    assert payload["timestamp"].endswith("Z")
    assert payload["data"]["order_id"] == str(order.id)
    assert (payload["data"]["total_minor"], payload["data"]["currency"]) == (1_980, "EUR")
    [line] = payload["data"]["lines"]
    assert (line["name"], line["quantity"], line["price_minor"]) == ("Lamp", 2, 990)


async def test_the_timeline_of_an_ordinary_order_tells_its_reservation_once(shop: Shop) -> None:
    """That it was made is told by its row; the event is for those who follow."""
    product = await shop.make_product()
    body = {"lines": [{"product_id": product.id, "quantity": 1}]}
    answer = await (await shop.client()).post("/v1/orders", headers=shop.headers(key="once"), json=body)

    assert [entry["event"] for entry in answer.json()["timeline"]] == ["reserved"]
