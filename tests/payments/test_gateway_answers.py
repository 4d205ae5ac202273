"""What the gateway believes of the provider's answers: nothing that breaks the contract."""

from typing import Any

import msgspec
import pytest

from shop.errors import ProviderUnavailable
from shop.payments import gateway as module
from shop.payments.contract import ProviderEvent, UnreadableEvent
from shop.payments.gateway import ProviderRefused
from tests.payments.gateways import asking, create, read_events
from tests.payments.raw import EVENT, INTENT, Reply, says, says_bytes, says_intent


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[]", b'{"code": 7}', b'{"code": "' + b"x" * 129 + b'"}', b"[" * 100_000]
)
async def test_a_refusal_that_does_not_say_why_is_a_refusal(body: bytes) -> None:
    async with asking(says_bytes(body, 400)) as (_, gateway):
        with pytest.raises(ProviderRefused, match="400 unknown"):
            await create(gateway)


BAD_INTENTS: dict[str, Reply] = {
    "no JSON": says_bytes(b"<html>It works!</html>"),
    "nothing": says_bytes(b""),
    "a list": says([]),
    "too deep": says_bytes(b'{"more": ' + b"[" * 100_000),
    "packed": says_bytes(b"\x1f\x8b", 200, "Content-Encoding: gzip"),
    "an unknown status": says_intent(status="perhaps"),
    "less than nothing": says_intent(captured_minor=-1),
    "money as text": says_intent(amount_minor="990"),
    "part of a cent": says_intent(amount_minor=9.9),
    "more than a bigint": says_intent(amount_minor=2**63),
    "an id that is a path": says_intent(id="../admin"),
    "a long id": says_intent(id="p" * 65),
    "a page that is a script": says_intent(pay_url="javascript:alert(1)"),
    "a currency in small letters": says_intent(currency="eur"),
    "a time without a zone": says_intent(created_at="2026-11-21T12:00:00"),
    "a missing field": says({name: value for name, value in INTENT.items() if name != "status"}),
}


@pytest.mark.parametrize("reply", BAD_INTENTS.values(), ids=BAD_INTENTS.keys())
async def test_an_answer_that_breaks_the_contract_is_no_answer(reply: Reply) -> None:
    async with asking(reply, payment_tries_max=1) as (_, gateway):
        with pytest.raises(ProviderUnavailable):
            await gateway.read("pi_1")


async def test_the_provider_does_not_send_the_shop_elsewhere() -> None:
    """Whoever is there would be shown the key."""
    elsewhere = says_bytes(b"", 302, "Location: /elsewhere")
    async with asking(elsewhere, says_intent(), payment_tries_max=1) as (provider, gateway):
        with pytest.raises(ProviderUnavailable):
            await gateway.read("pi_1")

    assert len(provider.requests) == 1


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 1_000)
    async with asking(says_intent(more="x" * 1_000), payment_tries_max=1) as (_, gateway):
        with pytest.raises(ProviderUnavailable):
            await gateway.read("pi_1")


async def test_what_is_new_in_an_answer_is_passed_over() -> None:
    async with asking(says_intent(brand_new={"a": 1})) as (_, gateway):
        assert (await gateway.read("pi_1")).id == "pi_1"


async def test_a_kind_of_event_that_is_new_is_only_a_word() -> None:
    async with asking(says({"data": [{**EVENT, "type": "payment.blessed"}], "has_more": False})) as (_, gateway):
        (event,) = await read_events(gateway, after=0, limit=1)

    assert event.type == "payment.blessed"


BAD_PARTS: dict[str, dict[str, Any]] = {
    "an unknown status": {"status": "perhaps"},
    "a currency in small letters": {"currency": "eur"},
    "less than nothing": {"amount_minor": -1},
    "more than a bigint": {"captured_minor": 2**63},
    "money as text": {"amount_minor": "990"},
    "an id that is a path": {"id": "../x"},
    "an order with a zero byte": {"order_id": "\0"},
    "a page with a zero byte": {"pay_url": "https://pay.example/\0"},
    "a time without a zone": {"created_at": "2026-11-21T12:00:00"},
}
BAD_EVENTS: dict[str, bytes] = {
    **{name: msgspec.json.encode({**EVENT, "data": {**INTENT, **changes}}) for name, changes in BAD_PARTS.items()},
    "no intent": msgspec.json.encode({**EVENT, "data": None}),
    "a missing field": msgspec.json.encode({**EVENT, "data": {"id": "pi_1"}}),
    "a long id": msgspec.json.encode({**EVENT, "id": "x" * 129}),
    "a kind with a zero byte": msgspec.json.encode({**EVENT, "type": "\0"}),
    "no place": msgspec.json.encode({**EVENT, "seq": None}),
    "a place beyond all numbers": b'{"seq": 1' + b"0" * 400 + b"}",
    "a number": b"7",
    "nothing": b"null",
    "half a character": b'{"id": "evt_1", "type": "\\ud800", "seq": 1}',
    "a number that is none": b'{"id": "evt_1", "more": NaN, "seq": 1}',
    "too deep": b'{"id": "evt_1", "more": ' + b"[" * 20_000 + b"]" * 20_000 + b', "seq": 1}',
}


@pytest.mark.parametrize("sent", BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
async def test_an_event_that_cannot_be_read_hides_no_other_and_blames_nobody(sent: bytes) -> None:
    """The breaker would open at the first failure."""
    others = [msgspec.json.encode({**EVENT, "id": f"evt_{number}", "seq": number}) for number in (2, 3)]
    page = b'{"data": [' + b", ".join([sent, *others]) + b'], "has_more": false}'
    async with asking(says_bytes(page), payment_breaker_failures=1) as (_, gateway):
        for _ in range(2):
            strange, *rest = await gateway.events(after=0, limit=3)

            assert isinstance(strange, UnreadableEvent), strange
            assert [event.id for event in rest if isinstance(event, ProviderEvent)] == ["evt_2", "evt_3"]


async def test_an_answer_about_one_payment_that_cannot_be_read_keeps_nobody_from_asking_about_another() -> None:
    settings = {"payment_tries_max": 1, "payment_breaker_failures": 1}
    async with asking(says_intent(status="perhaps"), says_intent(), **settings) as (_, gateway):
        with pytest.raises(ProviderUnavailable):
            await gateway.read("pi_strange")

        assert (await gateway.read("pi_1")).id == "pi_1"


@pytest.mark.parametrize("numbers", [[7], [8, 8], [9, 8], [8, 9, 10]], ids=str)
async def test_events_that_are_known_or_in_no_order_or_too_many_are_not_believed(numbers: list[int]) -> None:
    """The place up to which they were read may only move on over what was told."""
    listed = [{**EVENT, "id": f"evt_{number}", "seq": number} for number in numbers]
    async with asking(says({"data": listed, "has_more": False})) as (_, gateway):
        with pytest.raises(ProviderUnavailable):
            await gateway.events(after=7, limit=2)


async def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    async with asking(says({}, 404)) as (provider, gateway):
        with pytest.raises(ProviderRefused):
            await gateway.read("../events?after=0&x=/")

        assert len(provider.requests) == 1
        assert gateway._client.build_request("GET", module._path("../x?y")).url.raw_path == b"/v1/intents/..%2Fx%3Fy"
