"""The hosted payment page."""

import re

import pytest

from tests.payments.sandbox.running import Sandbox, intent_wish

HOSTILE = "</dd><script>alert(1)</script><img src=x onerror='alert(2)'>\"&"


async def page(sandbox: Sandbox, intent_id: str) -> str:
    answer = await sandbox.client.get(f"/pay/{intent_id}")
    assert answer.status_code == 200
    return answer.text


async def test_hostile_text_is_only_text(sandbox: Sandbox) -> None:
    intent = await sandbox.create(order_id=HOSTILE)

    text = await page(sandbox, intent["id"])

    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


async def test_the_page_names_the_amount_and_the_order_and_offers_both_outcomes(sandbox: Sandbox) -> None:
    intent = await sandbox.create(order_id="order-7", amount_minor=123_405)

    text = await page(sandbox, intent["id"])

    assert "1234.05 EUR" in text
    assert "order-7" in text
    assert re.findall(r'<button name="outcome" value="(\w+)">', text) == ["pay", "decline"]
    assert intent["pay_url"] == f"{sandbox.url}/pay/{intent['id']}"


@pytest.mark.parametrize(("currency", "written"), [("BIF", "123,405 BIF"), ("CLF", "12.3405 CLF")])
async def test_the_page_names_the_amount_with_the_digits_of_its_currency(
    sandbox: Sandbox, currency: str, written: str
) -> None:
    wish = {**intent_wish(amount_minor=123_405), "currency": currency}
    intent = (await sandbox.ask("POST", "/intents", key=currency, body=wish)).json()

    assert f"Pay {written}" in await page(sandbox, intent["id"])


async def test_the_page_loads_nothing_and_runs_nothing(sandbox: Sandbox) -> None:
    intent = await sandbox.create()
    answer = await sandbox.client.get(f"/pay/{intent['id']}")

    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "script" not in answer.headers["content-security-policy"]
    assert not re.search(r"(src|href)=|url\(|@import", answer.text)
    assert (answer.headers["referrer-policy"], answer.headers["cache-control"]) == ("no-referrer", "no-store")


@pytest.mark.parametrize(
    ("pressed", "said"),
    [
        (["pay"], "Paid. Thank you."),
        (["decline"], "The payment was declined."),
        (["decline", "pay"], "Paid. Thank you."),
        (["pay", "pay"], "Paid. Thank you."),
    ],
    ids=str,
)
async def test_a_button_leads_back_to_the_page_which_says_what_came_of_it(
    pressed: list[str], said: str, sandbox: Sandbox
) -> None:
    intent = await sandbox.create()

    for outcome in pressed:
        answer = await sandbox.client.post(f"/pay/{intent['id']}", data={"outcome": outcome})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/pay/{intent['id']}")

    assert said in await page(sandbox, intent["id"])


async def test_a_paid_intent_has_no_button(sandbox: Sandbox) -> None:
    paid = await sandbox.paid()

    assert "<button" not in await page(sandbox, paid["id"])


async def test_a_cancelled_intent_says_so_and_has_no_button(sandbox: Sandbox) -> None:
    intent = await sandbox.create()
    await sandbox.ask("POST", f"/intents/{intent['id']}/cancel")

    text = await page(sandbox, intent["id"])

    assert "This payment was cancelled. Nothing was charged." in text
    assert "<button" not in text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_payment_that_is_not_there_has_a_page_that_says_so(method: str, sandbox: Sandbox) -> None:
    answer = await sandbox.client.request(method, "/pay/pi_none", data={"outcome": "pay"} if method == "POST" else None)

    assert answer.status_code == 404
    assert "There is no payment at this address." in answer.text
