"""Why did I not get one: the witness of a refusal, compared with the recorded ledger, and told in words."""

from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import update
from structlog.testing import capture_logs

from shop.database import Database
from shop.ledger.order_ids import ids_of_sale
from shop.ledger.receipts import STATEMENT_CHARACTERS_MAX, Receipt, Signer, Witness
from shop.sales.models import LedgerRow, Sale, SaleEpoch
from shop.settings import Settings
from shop.support.explaining.schemas import Verdict
from shop.support.explaining.service import explain_refusal
from tests.api.answers import problem_of, witness_of
from tests.harness import Shop, new_user_id, running_shop, wait_until
from tests.notifications.outbox import make_sale
from tests.processes import copy_of

AT_MS = 1_800_000_000_000


async def ask(shop: Shop, sale: Sale, body: object, user_id: str | None = None) -> httpx.Response:
    """Ask for an explanation as this user, or as somebody new."""
    client = await shop.client()
    return await client.post(f"/v1/seckill/sales/{sale.id}/explain", headers=shop.headers(user_id), json=body)


async def explained(shop: Shop, sale: Sale, body: object, user_id: str | None = None) -> dict[str, Any]:
    """The explanation, as soon as the ledger is recorded up to that moment."""

    async def found() -> httpx.Response | None:
        answer = await ask(shop, sale, body, user_id)
        return None if answer.status_code == 503 else answer

    answer: httpx.Response = await wait_until(found, reason="the moment is recorded")
    assert answer.status_code == 200, answer.text
    explanation: dict[str, Any] = answer.json()
    return explanation


def signed(shop: Shop, sale: Sale, code: str, *, seq: int, epoch: int = 1) -> dict[str, str]:
    """A witness that the shop has signed, whether it is true or not."""
    witness = Witness(code, sale.id, epoch, seq, AT_MS)
    return {"witness": Signer(shop.settings.secret).sign(witness)}


def contradictions(code: str) -> float:
    return REGISTRY.get_sample_value("shop_statement_contradictions_total", {"code": code}) or 0.0


@pytest.fixture(scope="module")
async def sold(live_shop: Shop) -> Sale:
    """A sale whose ledger has four entries: its two units are sold, then it is paused and resumed."""
    sale = await live_shop.open_sale(units=2)
    for _ in range(2):
        await live_shop.buy(sale)
    for verb in ("pause", "resume"):
        assert (await live_shop.change(sale, verb)).status_code == 200
    return await live_shop.drained(sale)


async def refused(
    shop: Shop, sale: Sale, user_id: str | None = None, *, quantity: int = 1, key: str | None = None
) -> dict[str, Any]:
    """The problem document of a purchase that was refused."""
    answer = await shop.buy(sale, user_id, quantity=quantity, key=key)
    document: dict[str, Any] = answer.json()
    assert "witness" in document, answer.text
    return document


async def test_who_came_too_late_is_told_when_the_last_unit_was_taken(shop: Shop) -> None:
    sale = await shop.open_sale(units=3)
    for _ in range(3):
        await shop.buy(sale)
    late = new_user_id()
    document = await refused(shop, sale, late)
    witness = witness_of(shop, document)

    found = await explained(shop, sale, {"witness": document["witness"]}, late)

    assert (found["code"], found["verdict"], found["units_left"]) == ("sold_out", "agrees", 0)
    assert (found["epoch"], found["seq"]) == (witness.epoch, witness.seq) == (1, 3)
    assert found["meaning"] == "All units were taken."
    async with shop.database.transaction() as session:
        last = await session.get_one(LedgerRow, (sale.id, 1, 3))
    assert (found["ran_out"]["seq"], found["ran_out"]["at"]) == (3, last.at.isoformat().replace("+00:00", "Z"))
    assert found["mine"] == {"units_then": 0, "units_now": 0, "orders": [], "has_more": False}


async def test_units_that_came_back_and_were_sold_again_are_told(shop: Shop) -> None:
    """They belong to the whole answer: the next refusal names a later moment of the same sold-out sale."""
    sale, first = await shop.open_sale(units=2), new_user_id()
    bought = (await shop.buy(sale, first)).json()
    await shop.buy(sale)
    before = await refused(shop, sale)
    await shop.drained(sale)
    client = await shop.client()
    assert (await client.post(f"/v1/orders/{bought['id']}/cancel", headers=shop.headers(first))).status_code == 200
    await shop.buys(sale)
    await shop.drained(sale)

    ran_out = (await explained(shop, sale, {"witness": before["witness"]}))["ran_out"]

    assert (ran_out["seq"], ran_out["units_returned"], ran_out["units_sold_again"]) == (2, 1, 1)
    assert (ran_out["counted_to_seq"], ran_out["complete"]) == (4, True)


async def test_who_wanted_more_than_were_left_is_told_how_many_were(shop: Shop) -> None:
    sale = await shop.open_sale(units=5, units_per_user=4)
    await shop.buy(sale, quantity=3)

    found = await explained(shop, sale, {"witness": (await refused(shop, sale, quantity=3))["witness"]})

    assert (found["code"], found["verdict"], found["units_left"]) == ("not_enough_units", "agrees", 2)
    assert found["ran_out"] is None


async def test_who_is_over_the_limit_is_told_the_limit_and_what_they_have(shop: Shop) -> None:
    """What they had when they were refused, and what they have now; how many units are on sale is not told."""
    sale, buyer = await shop.open_sale(units=9, units_per_user=2), new_user_id()
    order = (await shop.buy(sale, buyer, quantity=2)).json()
    document = await refused(shop, sale, buyer, key="another")
    await shop.drained(sale)
    client = await shop.client()
    assert (await client.post(f"/v1/orders/{order['id']}/cancel", headers=shop.headers(buyer))).status_code == 200

    async def released() -> dict[str, Any] | None:
        found = await explained(shop, sale, {"witness": document["witness"]}, buyer)
        return found if found["mine"]["units_now"] == 0 else None

    found = await wait_until(released, reason="the units are back")

    assert (found["code"], found["verdict"], found["units_left"]) == ("over_limit", "unchecked", None)
    assert (found["rules"]["units_per_user"], found["mine"]["units_then"]) == (2, 2)
    [own] = found["mine"]["orders"]
    assert (own["id"], own["quantity"], own["status"]) == (order["id"], 2, "cancelled")


async def test_who_came_too_early_is_told_the_window(shop: Shop) -> None:
    sale = await shop.open_sale(starts_in=3_600)

    found = await explained(shop, sale, {"witness": (await refused(shop, sale))["witness"]})

    assert (found["code"], found["verdict"], found["seq"]) == ("sale_not_started", "agrees", 0)
    assert found["rules"]["phase"] == "scheduled"
    assert found["rules"]["starts_at"] == sale.starts_at.isoformat().replace("+00:00", "Z")
    assert (found["units_left"], found["ran_out"]) == (None, None)


@pytest.mark.parametrize(
    ("verb", "code", "phase"), [("close", "sale_ended", "ended"), ("pause", "sale_paused", "paused")]
)
async def test_who_came_while_the_sale_was_closed_is_told_so(shop: Shop, verb: str, code: str, phase: str) -> None:
    sale = await shop.open_sale(units=5)
    await shop.buy(sale)
    assert (await shop.change(sale, verb)).status_code == 200

    async def told() -> str | None:
        document = (await shop.buy(sale)).json()
        return document.get("witness") if document["code"] == code else None

    found = await explained(shop, sale, {"witness": await wait_until(told, reason=code)})

    assert (found["code"], found["verdict"], found["rules"]["phase"]) == (code, "agrees", phase)


@pytest.mark.parametrize(
    ("code", "seq", "reason"),
    [
        ("sold_out", 1, "Units left in the ledger: 1"),
        ("not_enough_units", 2, "Units left in the ledger: 0, of which at most 1 could be asked for"),
        ("sale_not_started", 1, "The sale had sold units already"),
        ("sale_ended", 1, "A unit was sold after that"),
        ("sale_paused", 4, "The sale had been resumed and not paused again"),
    ],
)
async def test_a_refusal_that_the_ledger_contradicts_is_told_as_one_and_rings(
    shop: Shop, sold: Sale, code: str, seq: int, reason: str
) -> None:
    """A signed refusal that was wrong is a proof against the shop: it says so itself, and somebody must look."""
    sale, rung = sold, contradictions(code)

    with capture_logs() as logs:
        found = await explained(shop, sale, signed(shop, sale, code, seq=seq))

    assert (found["verdict"], found["reason"]) == ("contradicts", reason)
    assert contradictions(code) == rung + 1
    [line] = [line for line in logs if line["event"] == "statement_contradicts_ledger"]
    assert (line["log_level"], line["sale_id"], line["epoch"], line["seq"]) == ("error", sale.id, 1, seq)


async def test_a_moment_of_an_epoch_that_was_lost_cannot_be_compared(database: Database) -> None:
    """Neither party is wrong: the entries up to that moment were lost with Redis, before they were recorded."""
    sale = await make_sale(database)
    async with database.transaction() as session:
        session.add(SaleEpoch(sale_id=sale.id, epoch=2, opening_balance=100))
        await session.execute(update(Sale).where(Sale.id == sale.id).values(epoch=2))

    async with database.transaction() as session:
        found = await explain_refusal(session, Witness("sold_out", sale.id, 1, 7, AT_MS), user_id=new_user_id())

    assert (found.verdict, found.units_left, found.ran_out) == (Verdict.LOST, None, None)


async def test_a_moment_that_is_not_recorded_yet_is_503_with_a_time_to_come_back(shop: Shop, sold: Sale) -> None:
    document = problem_of(await ask(shop, sold, signed(shop, sold, "sold_out", seq=5)), 503, "not_recorded_yet")

    assert "entry 4 of epoch 1" in document["detail"]


async def test_a_receipt_is_explained_by_its_order(shop: Shop) -> None:
    sale, buyer = await shop.open_sale(units=2), new_user_id()
    order = (await shop.buy(sale, buyer)).json()

    found = await explained(shop, sale, {"receipt": order["receipt"]}, buyer)

    assert (found["code"], found["verdict"], found["order_id"]) == ("reserved", "agrees", order["id"])
    assert found["told_at"] == order["reserved_at"]
    assert [each["id"] for each in found["mine"]["orders"]] == [order["id"]]


async def test_a_receipt_without_its_order_is_a_contradiction(shop: Shop, sold: Sale) -> None:
    """What was promised must be there (I6)."""
    buyer = new_user_id()
    receipt = Receipt(str(ids_of_sale(sold.id).first), sold.id, 1, 1, buyer, 1, AT_MS)

    found = await explained(shop, sold, {"receipt": Signer(shop.settings.secret).sign(receipt)}, buyer)

    assert (found["verdict"], found["order_id"]) == ("contradicts", None)
    assert found["reason"] == "Entry 1 of the ledger is not this reservation"


async def test_the_receipt_of_somebody_else_tells_nothing(shop: Shop, sold: Sale) -> None:
    receipt = Receipt(str(ids_of_sale(sold.id).first), sold.id, 1, 1, new_user_id(), 1, AT_MS)

    answer = await ask(shop, sold, {"receipt": Signer(shop.settings.secret).sign(receipt)})

    problem_of(answer, 404, "not_found")


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "a.b.c",
        "é.ü",
        "\u0000",
        Signer(b"another shop").sign(Witness("sold_out", 1, 1, 1, AT_MS)),
    ],
    ids=["nonsense", "three parts", "not ASCII", "a control character", "another shop's"],
)
async def test_what_the_shop_has_not_signed_is_refused(shop: Shop, sold: Sale, text: str) -> None:
    for member in ("witness", "receipt"):
        problem_of(await ask(shop, sold, {member: text}), 422, "statement_forged")


async def test_a_witness_that_was_changed_or_is_no_receipt_is_refused(shop: Shop, sold: Sale) -> None:
    """The signature covers every character, and a witness does not pass for a receipt."""
    witness = (await refused(shop, sold))["witness"]
    payload, _, signature = witness.partition(".")
    other = "A" if payload[5] != "A" else "B"

    for body in ({"witness": f"{payload[:5]}{other}{payload[6:]}.{signature}"}, {"receipt": witness}):
        problem_of(await ask(shop, sold, body), 422, "statement_forged")


async def test_a_witness_of_another_sale_is_refused_with_the_name_of_its_own(shop: Shop, sold: Sale) -> None:
    answer = await ask(shop, Sale(id=sold.id + 1_000), signed(shop, sold, "sold_out", seq=2))

    assert problem_of(answer, 422, "statement_of_another_sale")["sale_id"] == sold.id


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"witness": None},
        {"witness": 1},
        {"witness": ["x"]},
        {"witness": ""},
        {"witness": "x" * (STATEMENT_CHARACTERS_MAX + 1)},
        {"witness": "x.y", "receipt": "x.y"},
        {"witness": "x.y", "user_id": "eve"},
        ["x.y"],
    ],
    ids=["nothing", "null", "a number", "a list", "empty", "too long", "both", "another member", "no object"],
)
async def test_a_body_that_is_not_one_statement_is_refused(shop: Shop, sold: Sale, body: object) -> None:
    problem_of(await ask(shop, sold, body), 422, "invalid")


async def test_a_draft_and_a_sale_that_is_not_there_have_nothing_to_explain(shop: Shop) -> None:
    draft = await shop.draft_sale()

    problem_of(await ask(shop, draft, signed(shop, draft, "sold_out", seq=1)), 404, "not_found")
    draft.id = 2_147_483_646
    problem_of(await ask(shop, draft, signed(shop, draft, "sold_out", seq=1)), 404, "not_found")


async def test_whoever_asks_too_often_is_told_to_wait(live_settings: Settings) -> None:
    """What is forged counts too, and nobody else has to wait for it."""
    settings = copy_of(live_settings, explain_burst=2, explain_rate_per_second=0.01)
    async with running_shop(settings, worker=False) as shop:
        sale, user_id = Sale(id=1), new_user_id()
        for _ in range(2):
            problem_of(await ask(shop, sale, {"witness": "forged"}, user_id), 422, "statement_forged")

        answer = await ask(shop, sale, {"witness": "forged"}, user_id)

        problem_of(answer, 429, "rate_limited")
        assert answer.headers["RateLimit"].startswith('"explain";r=0;')
        problem_of(await ask(shop, sale, {"witness": "forged"}), 422, "statement_forged")
