"""A client that a generator made of the OpenAPI document, and of nothing else, gets through a whole purchase."""

import asyncio
import importlib
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType

from tests.orders.waiting.streams import EventStream
from tests.payments.conftest import Paying

EMAIL, PASSWORD = "generated@example.com", "correct horse battery"


@pytest.fixture
async def generated(paying: Paying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The modules of a client of the running shop's document, by their names."""
    document = tmp_path / "openapi.json"
    document.write_bytes((await (await paying.shop.client()).get("/openapi.json")).content)
    file = ConfigFile(post_hooks=[])
    config = Config.from_sources(
        file, MetaType.NONE, document, "utf-8", overwrite=False, output_path=tmp_path / "generated_client"
    )
    # For seconds; in the loop, the shop and the provider would seem to hang to each other.
    assert list(await asyncio.to_thread(generate, config=config)) == []
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: importlib.import_module(f"generated_client.{name}")


async def test_a_generated_client_signs_up_buys_follows_and_pays(
    paying: Paying, generated: Callable[[str], Any]
) -> None:
    sale = await paying.shop.open_sale(units=1)
    models, stranger = generated("models"), generated("client").Client(paying.shop.base_url)

    def call(name: str) -> Any:
        return generated(f"api.{name}")

    account = models.Registration(email=EMAIL, password=PASSWORD)
    assert (await call("accounts.register").asyncio(client=stranger, body=account)).email == EMAIL
    form = models.Credentials(username=EMAIL, password=PASSWORD)
    token = await call("accounts.sign_in").asyncio(client=stranger, body=form)
    client = generated("client").AuthenticatedClient(paying.shop.base_url, token=token.access_token)

    wish = models.PurchaseRequest(quantity=1)
    bought = await call("purchase.purchase").asyncio(sale.id, client=client, body=wish, prefer="wait=10")
    assert (bought.status, bought.quantity) == ("reserved", 1)

    payment = await call("orders.start_payment").asyncio(bought.id, client=client, idempotency_key="pay")
    assert isinstance(payment, models.PaymentRead), payment
    assert (payment.status, payment.amount_minor) == ("open", bought.total_minor)
    request = call("orders.follow_order")._get_kwargs(bought.id)
    async with client.get_async_httpx_client().stream(**request) as stream:
        events = EventStream(stream, aiter(stream.aiter_lines()))
        assert (await events.next()).last_change == "reserved"
        assert (await paying.attempt(payment.pay_url)).status_code == HTTPStatus.OK
        while (event := await events.next()).last_change != "paid":
            assert event.last_change == "reserved"

    order = await call("orders.read_order").asyncio(bought.id, client=client)
    assert [entry.event for entry in order.timeline] == ["reserved", "paid"]
    refused = await call("purchase.purchase").asyncio(sale.id, client=client, body=wish, idempotency_key="again")
    assert isinstance(refused, models.OverLimitProblem | models.SoldOutProblem)
    assert refused.witness
    wrong = await call("purchase.purchase").asyncio(sale.id, client=client, body=models.PurchaseRequest(quantity=0))
    assert [(each.in_, each.pointer, each.code) for each in wrong.errors] == [("body", "/quantity", "minimum")]
