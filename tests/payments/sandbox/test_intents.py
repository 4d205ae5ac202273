"""The sandbox's API: what becomes of an intent, once for each key."""

from typing import Any

import pytest

from tests.payments.sandbox.running import Sandbox, intent_wish


async def test_the_same_key_and_body_find_the_same_intent(sandbox: Sandbox) -> None:
    first = await sandbox.ask("POST", "/intents", key="k", body=intent_wish())
    again = await sandbox.ask("POST", "/intents", key="k", body=intent_wish())

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert (await sandbox.summary())["intents"]["open"] == 1


@pytest.mark.parametrize("change", [{"order_id": "another"}, {"amount_minor": 991}, {"currency": "USD"}])
async def test_the_same_key_with_another_body_is_refused(change: dict[str, Any], sandbox: Sandbox) -> None:
    await sandbox.create(key="k")

    answer = await sandbox.ask("POST", "/intents", key="k", body={**intent_wish(), **change})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize("path", ["/intents", "/intents/pi_1/refunds"])
async def test_what_moves_money_needs_a_key(path: str, sandbox: Sandbox) -> None:
    answer = await sandbox.ask("POST", path, body=intent_wish() if path == "/intents" else {"amount_minor": 1})

    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")


@pytest.mark.parametrize("sent", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer ünknown".encode()}])
async def test_the_api_is_for_who_has_its_key(sent: dict[str, Any], sandbox: Sandbox) -> None:
    intent = await sandbox.create()

    for path in (f"/v1/intents/{intent['id']}", "/v1/events"):
        answer = await sandbox.client.get(path, headers=sent)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_a_shopper_needs_no_key_to_pay(sandbox: Sandbox) -> None:
    intent = await sandbox.create(amount_minor=990)

    answer = await sandbox.client.post(f"/v1/intents/{intent['id']}/attempts", json={"outcome": "pay"})

    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in ("status", "captured_minor", "attempts")} == {
        "status": "captured",
        "captured_minor": 990,
        "attempts": 1,
    }


async def test_paying_twice_is_once(sandbox: Sandbox) -> None:
    paid = await sandbox.paid()

    again = await sandbox.attempt(paid["id"], "pay")

    assert (again.status_code, again.json()) == (200, paid)
    assert (await sandbox.summary())["captured_minor"] == paid["amount_minor"]


async def test_a_declined_intent_can_still_be_paid(sandbox: Sandbox) -> None:
    intent = await sandbox.create()

    declined = await sandbox.attempt(intent["id"], "decline")
    paid = await sandbox.attempt(intent["id"], "pay")

    assert (declined.status_code, declined.json()["code"]) == (402, "payment_declined")
    assert (paid.json()["status"], paid.json()["attempts"]) == ("captured", 2)


async def test_a_cancelled_intent_is_never_paid(sandbox: Sandbox) -> None:
    intent = await sandbox.create()
    cancelled = await sandbox.ask("POST", f"/intents/{intent['id']}/cancel")
    again = await sandbox.ask("POST", f"/intents/{intent['id']}/cancel")

    answer = await sandbox.attempt(intent["id"], "pay")

    assert cancelled.json() == again.json()
    assert (answer.status_code, answer.json()["code"]) == (409, "intent_cancelled")
    assert (await sandbox.summary())["captured_minor"] == 0


async def test_a_paid_intent_cannot_be_cancelled(sandbox: Sandbox) -> None:
    paid = await sandbox.paid()

    answer = await sandbox.ask("POST", f"/intents/{paid['id']}/cancel")

    assert (answer.status_code, answer.json()["code"]) == (409, "already_captured")


async def test_a_refund_is_made_once_for_each_key(sandbox: Sandbox) -> None:
    paid = await sandbox.paid(amount_minor=990)

    first = await sandbox.refund(paid["id"], 400, key="k")
    again = await sandbox.refund(paid["id"], 400, key="k")
    other = await sandbox.refund(paid["id"], 401, key="k")

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert first.json() == again.json()
    assert other.json()["code"] == "idempotency_mismatch"
    assert (await sandbox.summary())["refunded_minor"] == 400


async def test_no_more_is_given_back_than_was_paid(sandbox: Sandbox) -> None:
    paid = await sandbox.paid(amount_minor=990)
    await sandbox.refund(paid["id"], 400, key="first")

    too_much = await sandbox.refund(paid["id"], 591, key="second")
    the_rest = await sandbox.refund(paid["id"], 590, key="third")

    assert (too_much.status_code, too_much.json()["code"]) == (422, "refund_too_large")
    assert the_rest.status_code == 201
    assert (await sandbox.ask("GET", f"/intents/{paid['id']}")).json()["refunded_minor"] == 990


async def test_what_was_not_paid_is_not_given_back(sandbox: Sandbox) -> None:
    intent = await sandbox.create()

    answer = await sandbox.refund(intent["id"], 1)

    assert (answer.status_code, answer.json()["code"]) == (409, "not_captured")


@pytest.mark.parametrize("verb", ["", "/cancel", "/attempts", "/refunds"])
async def test_an_intent_that_is_not_there_is_404(verb: str, sandbox: Sandbox) -> None:
    body = {"/attempts": {"outcome": "pay"}, "/refunds": {"amount_minor": 1}}.get(verb)

    answer = await sandbox.ask("POST" if verb else "GET", f"/intents/pi_none{verb}", key="k", body=body)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_events_tell_everything_in_order_and_without_a_gap(sandbox: Sandbox) -> None:
    intent = await sandbox.create(key="first")
    await sandbox.attempt(intent["id"], "decline")
    await sandbox.attempt(intent["id"], "pay")
    await sandbox.refund(intent["id"], 10)
    other = await sandbox.create(key="second")
    await sandbox.ask("POST", f"/intents/{other['id']}/cancel")

    told = (await sandbox.events())["data"]

    assert [event["type"].removeprefix("payment.") for event in told] == [
        "created",
        "failed",
        "captured",
        "refunded",
        "created",
        "cancelled",
    ]
    assert [event["seq"] for event in told] == list(range(1, 7))
    assert [event["data"]["status"] for event in told[:3]] == ["open", "open", "captured"]


async def test_events_are_read_page_by_page(sandbox: Sandbox) -> None:
    for number in range(3):
        await sandbox.create(key=str(number))

    first = await sandbox.events(limit=2)
    second = await sandbox.events(after=2, limit=2)

    assert ([event["seq"] for event in first["data"]], first["has_more"]) == ([1, 2], True)
    assert ([event["seq"] for event in second["data"]], second["has_more"]) == ([3], False)


@pytest.mark.parametrize("limit", ["0", "501", "all"])
async def test_a_page_of_events_is_bounded(limit: str, sandbox: Sandbox) -> None:
    answer = await sandbox.ask("GET", f"/events?limit={limit}")

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_a_request_that_changes_nothing_tells_nothing(sandbox: Sandbox) -> None:
    paid = await sandbox.paid()
    before = await sandbox.events()

    await sandbox.create()
    await sandbox.attempt(paid["id"], "pay")
    await sandbox.ask("POST", f"/intents/{paid['id']}/cancel")
    await sandbox.refund(paid["id"], 10_000)

    assert await sandbox.events() == before


@pytest.mark.parametrize(
    "change",
    [
        {"amount_minor": -1},
        {"amount_minor": "990"},
        {"amount_minor": True},
        {"amount_minor": 10**13},
        {"currency": "eur"},
        {"order_id": ""},
        {"order_id": "x" * 129},
        {"more": 1},
    ],
    ids=str,
)
async def test_a_wish_that_breaks_a_rule_is_refused(change: dict[str, Any], sandbox: Sandbox) -> None:
    answer = await sandbox.ask("POST", "/intents", key="k", body={**intent_wish(), **change})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_a_body_that_is_too_large_is_refused(sandbox: Sandbox) -> None:
    answer = await sandbox.ask("POST", "/intents", key="k", body=intent_wish(order_id="x" * 100_000))

    assert answer.status_code == 413


async def test_the_summary_balances_the_money(sandbox: Sandbox) -> None:
    await sandbox.create(key="open")
    cancelled = await sandbox.create(key="cancelled")
    await sandbox.ask("POST", f"/intents/{cancelled['id']}/cancel")
    paid = await sandbox.paid(key="paid", amount_minor=500)
    await sandbox.refund(paid["id"], 200)
    await sandbox.paid(key="paid too", amount_minor=50)

    summary = await sandbox.summary()

    assert summary["intents"] == {"open": 1, "cancelled": 1, "captured": 2}
    assert (summary["captured_minor"], summary["refunded_minor"], summary["refunds"]) == (550, 200, 1)
    assert summary["events"] == len((await sandbox.events())["data"])
