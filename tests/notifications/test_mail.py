"""Buyers get one plain mail for each thing that happens to them, and no header of it can be forged."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from shop import metrics
from shop.database import Database
from shop.notifications.delivering.mail import mail
from shop.notifications.delivering.sinks import Leased, Undeliverable
from shop.notifications.kinds import Kind, Sink
from shop.notifications.models import Notification
from shop.orders.models import OrderStatus
from shop.settings import Settings
from shop.users.models import User
from tests.harness import wait_until
from tests.notifications.outbox import (
    all_collected,
    bring_near,
    deliver,
    deliveries,
    make_order,
    make_user,
    move_order,
    the_delivery,
)
from tests.notifications.receivers import MailServer, mail_server
from tests.processes import copy_of

ORDER: dict[str, Any] = {
    "order_id": "0193b3a8-0000-8000-8000-000000000001",
    "quantity": 2,
    "total_minor": 1_980,
    "currency": "EUR",
    "expires_at": "2026-11-21T12:15:00Z",
    "lines": [{"product_id": 1, "name": "Lamp", "quantity": 2, "price_minor": 990}],
}
LEASED = Leased(
    id=1,
    tries=1,
    notification_id=UUID(int=7),
    kind=Kind.RESERVED,
    order_id=UUID(ORDER["order_id"]),
    user_id="ada",
    payload={"type": "order.reserved", "timestamp": "2026-11-21T12:00:00Z", "data": ORDER},
    created_at=datetime(2026, 11, 21, 12, tzinfo=UTC),
    email="ada@example.com",
)


def mailing(settings: Settings, server: MailServer) -> Settings:
    return copy_of(settings, smtp_url=server.url, mail_from="shop@shop.example", delivery_timeout_seconds=5.0)


async def collected(database: Database, settings: Settings, count: int) -> None:
    async def there() -> bool:
        await all_collected(database, settings)
        async with database.transaction() as session:
            return bool(await session.scalar(select(func.count()).select_from(Notification)) == count)

    await wait_until(there, reason=f"{count} notifications are collected")


async def test_a_buyer_is_mailed_about_their_account_and_their_order(database: Database, settings: Settings) -> None:
    async with mail_server() as server:
        using = mailing(settings, server)
        user_id = await make_user(database, email="ada@example.com")
        order = await make_order(database, user_id=user_id, name="Lamp")
        await move_order(database, order, OrderStatus.PAID)
        await collected(database, using, 3)
        await deliver(database, using)

    mails = {str(each["Subject"]): each for each in server.mails}
    assert set(mails) == {"Welcome to the shop", "Your order is reserved", "Your order is paid"}
    assert server.recipients == ["ada@example.com"] * 3
    reserved = mails["Your order is reserved"]
    text = reserved.get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert (reserved["From"], reserved["To"]) == ("shop@shop.example", "ada@example.com")
    assert reserved.get_content_type() == "text/plain"
    assert "2 x Lamp" in text
    assert "Total: 19.80 EUR" in text
    assert all(each.delivered_at for each in await deliveries(database))


async def test_a_mail_has_the_same_id_at_each_try(database: Database, settings: Settings) -> None:
    assert mail(LEASED, "shop@shop.example")["Message-ID"] == f"<{LEASED.notification_id}@shop.example>"
    assert (
        mail(replace(LEASED, tries=5), "shop@shop.example")["Message-ID"] == f"<{LEASED.notification_id}@shop.example>"
    )


async def test_users_without_an_account_and_accounts_without_mail_are_not_mailed(
    database: Database, settings: Settings
) -> None:
    """Orders name users who need not have a row; addresses of load tests lead nowhere."""
    using = copy_of(settings, smtp_url="smtp://127.0.0.1:1")
    await make_user(database, email="shopper-1@example.invalid")
    await make_user(database, email="operator")
    await make_order(database)
    seen = await make_user(database)
    await collected(database, using, 1)

    delivery = await the_delivery(database)
    async with database.transaction() as session:
        assert await session.scalar(select(Notification.user_id)) == seen
    assert delivery.sink == Sink.MAIL


async def test_a_mail_goes_to_the_address_that_the_account_has_by_then(database: Database, settings: Settings) -> None:
    async with mail_server() as server:
        using = mailing(settings, server)
        await make_user(database, email="old@example.com")
        await collected(database, using, 1)
        async with database.transaction() as session:
            await session.execute(update(User).values(email="new@example.com"))
        await deliver(database, using)

    assert server.recipients == ["new@example.com"]


@pytest.mark.parametrize(("status", "dead"), [(550, True), (450, False)])
async def test_a_recipient_who_is_refused_for_good_is_not_tried_again(
    database: Database, settings: Settings, status: int, dead: bool
) -> None:
    async with mail_server(status=status) as server:
        using = mailing(settings, server)
        await make_user(database)
        await collected(database, using, 1)
        await deliver(database, using)

    delivery = await the_delivery(database)
    assert (delivery.dead_at is not None, delivery.last_error) == (dead, f"answered {status}")


async def test_a_mail_server_that_is_away_is_tried_again(database: Database, settings: Settings) -> None:
    async with mail_server() as server:
        using = mailing(settings, server)
    await make_user(database)
    await collected(database, using, 1)
    await deliver(database, using)

    delivery = await the_delivery(database)
    assert (delivery.delivered_at, delivery.dead_at, delivery.tries) == (None, None, 1)
    assert delivery.last_error


@pytest.mark.parametrize(
    "email",
    [
        "ada@example.com\r\nBcc: everybody@example.com",
        "ada@example.com\nBcc: everybody@example.com",
        "ada@example.com\rBcc: everybody@example.com",
        "ada@example.com, everybody@example.com",
        "ada@example.com\r\n\r\nBody",
        "<ada@example.com>",
        "ada",
        "",
        "@",
        "\x00@example.com",
    ],
)
def test_no_address_can_add_a_header_or_a_recipient(email: str) -> None:
    with pytest.raises(Undeliverable):
        mail(replace(LEASED, email=email), "shop@shop.example")


def test_no_name_of_a_product_can_leave_its_line() -> None:
    lines = [{**ORDER["lines"][0], "name": "Lamp\r\n.\r\nQUIT\r\nSubject: Forged"}]
    told = replace(LEASED, payload={"data": {**ORDER, "lines": lines}})

    sent = mail(told, "shop@shop.example")

    assert sent.get_all("Subject") == ["Your order is reserved"]
    assert "2 x Lamp . QUIT Subject: Forged" in sent.get_content()


@pytest.mark.parametrize(
    ("minor", "currency", "written"),
    [
        (1_980, "EUR", "19.80 EUR"),
        (5, "USD", "0.05 USD"),
        (1_980, "JPY", "1980 JPY"),
        (1_980, "KWD", "1.980 KWD"),
        (1_980, "BIF", "1980 BIF"),
    ],
)
def test_an_amount_is_written_with_the_digits_of_its_currency(minor: int, currency: str, written: str) -> None:
    told = replace(LEASED, payload={"data": {**ORDER, "total_minor": minor, "currency": currency}})

    assert f"Total: {written}\n" in mail(told, "shop@shop.example").get_content()


def test_an_amount_is_written_as_in_the_locale_of_the_shop() -> None:
    told = replace(LEASED, payload={"data": {**ORDER, "total_minor": 1_234_567, "currency": "EUR"}})

    assert "Total: 12.345,67 EUR\n" in mail(told, "shop@shop.example", "de").get_content()


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.WELCOME])
def test_every_kind_of_order_notification_has_a_mail_of_its_own(kind: Kind) -> None:
    subjects = {
        str(mail(replace(LEASED, kind=each), "shop@shop.example")["Subject"])
        for each in (kind, Kind.RESERVED, Kind.PAID)
    }

    assert len(subjects) == len({kind, Kind.RESERVED, Kind.PAID})


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_password_goes_in_clear_only_where_a_setting_says_so(
    database: Database, settings: Settings, allowed: bool
) -> None:
    """A mail server that offers no STARTTLS may be anybody who sits between."""
    async with mail_server() as server:
        url = server.url.replace("//", "//shop:pa55word@")
        using = copy_of(mailing(settings, server), smtp_url=url, smtp_cleartext_sign_in_allowed=allowed)
        await make_user(database)
        await collected(database, using, 1)
        await deliver(database, using)

    delivery = await the_delivery(database)
    assert any(command.startswith("AUTH") for command in server.commands) == allowed
    assert (delivery.delivered_at is not None, "STARTTLS" in (delivery.last_error or "")) == (allowed, not allowed)
    assert delivery.dead_at is None


@pytest.mark.parametrize(
    ("email", "recipient"),
    [
        ("ada@münchen.example", "ada@xn--mnchen-3ya.example"),
        ("ada@straße.example", "ada@xn--strae-oqa.example"),
        ("ada@例え.example", "ada@xn--r8jz45g.example"),
    ],
)
async def test_a_domain_is_sent_in_its_ascii_form(
    database: Database, settings: Settings, email: str, recipient: str
) -> None:
    """Servers without SMTPUTF8 know no other, and those with it know it too."""
    async with mail_server() as server:
        using = mailing(settings, server)
        await make_user(database, email=email)
        await collected(database, using, 1)
        await deliver(database, using)

    assert server.recipients == [recipient]
    assert [each["To"] for each in server.mails] == [recipient]


@pytest.mark.parametrize("email", ["ädä@example.com", "ada@" + "ü" * 70 + ".example", "ada@-ü.example"])
async def test_an_address_that_can_never_be_mailed_is_said_at_once(
    database: Database, settings: Settings, email: str
) -> None:
    async with mail_server() as server:
        using = mailing(settings, server)
        await make_user(database, email=email)
        await collected(database, using, 1)
        await deliver(database, using)

    delivery = await the_delivery(database)
    assert (delivery.dead_at is not None, delivery.tries) == (True, 1)
    assert delivery.last_error


@pytest.mark.parametrize("moved", [OrderStatus.PAID, OrderStatus.CANCELLED, None])
async def test_a_reminder_that_is_not_true_any_more_is_dropped(
    database: Database, settings: Settings, moved: OrderStatus | None
) -> None:
    """The mail server was away while it was due; meanwhile the order was paid, cancelled, or its hold has ended."""
    dropped = counted("stale")
    async with mail_server() as server:
        using = mailing(settings, server)
        order = await make_order(database, user_id=await make_user(database))
        await bring_near(database, order, seconds=60)
        await collected(database, using, 3)
        if moved is None:
            await bring_near(database, order, seconds=-1)
        else:
            await move_order(database, order, moved)
        await deliver(database, using)

    subjects = {str(each["Subject"]) for each in server.mails}
    assert subjects == {"Welcome to the shop"} | ({"Your order is reserved"} if moved else set())
    assert counted("stale") - dropped == (1 if moved else 2)
    assert {each.last_error for each in await deliveries(database) if each.dead_at} == {
        "stale: what it says is not true any more"
    }


def counted(outcome: str) -> float:
    return float(metrics.DELIVERIES.labels(Sink.MAIL.value, outcome)._value.get())
