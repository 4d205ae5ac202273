"""Text is text: what somebody has called a thing is shown, nothing in it is obeyed, and the work is done once."""

import asyncio
import json
import re
from pathlib import Path
from uuid import uuid4

from sqlalchemy import update

from shop.local import environment_of
from shop.products.models import Product
from shop.sales.models import Sale
from shop.terminal import visible
from tests.commands.all_commands import SERVING, commands, words_for
from tests.harness import Shop
from tests.nursery import Child, Said, environment, run

HOSTILE = "Phone [64GB/8GB] [/sale] [bold]x[/bold] [link=http://x] :smile: \x9b31m\u202e\x1b]0;title\x07\u2028 ö"
BRACKETS = "Phone [64GB/8GB] [/sale] [bold]x[/bold] :smile:"
NAMES = (HOSTILE, BRACKETS)
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


async def words(shop: Shop) -> dict[str, str]:
    """A draft over a product, both with the hostile name: they are older than the rule against it."""
    draft = await shop.draft_sale(units=10, stock=20)
    async with shop.database.transaction() as session:
        for kind, number in ((Product, draft.product_id), (Sale, draft.id)):
            await session.execute(update(kind).where(kind.id == number).values(name=HOSTILE))
    return {
        "product": str(draft.product_id), "sale": str(draft.id), "order": str(uuid4()), "user": f"[bold]{draft.id}",
        "name": BRACKETS, "email": f"[bold]{draft.id}@example.com", "password": "[/bold] long enough", "price": "1",
        "units": "1", "delta": "1", "seq": "1",
    }  # fmt: skip


async def shop_says(shop: Shop, directory: Path, *words: str, **other: str) -> Said:
    """What a command prints on a terminal of 80 columns."""
    variables = {**environment_of(shop.settings), "COLUMNS": "80", **other}
    return await asyncio.to_thread(run, directory, *words, **variables)


async def test_no_command_obeys_what_a_thing_is_called(shop: Shop, tmp_path: Path) -> None:
    """Whatever a command prints is text, all of the name is in it, and its JSON has the very name."""
    shown = set()
    for path, command in ((path, command) for path, command in commands() if path not in SERVING):
        said = await shop_says(shop, tmp_path, *path, *words_for(command, await words(shop)))

        assert not OBEYED.search(said.output + said.errors), path
        assert "Traceback" not in said.errors, (path, said)
        if any(visible(name) in said.output for name in NAMES):
            shown.add(path)
            told = await shop_says(shop, tmp_path, *path, "--json", *words_for(command, await words(shop)))
            assert any(json.dumps(name) in json.dumps(told.value) for name in NAMES), (path, told)

    assert {("product", "create"), ("product", "stock"), ("sale", "create"), ("sale", "schedule")} <= shown


async def test_a_result_that_cannot_be_printed_has_a_status_of_its_own_and_names_the_key(
    shop: Shop, tmp_path: Path
) -> None:
    """Stock that has moved is not moved again: a disk that is full tells how to ask for the result."""
    product = await shop.make_product(stock=5)
    variables = environment(**environment_of(shop.settings))
    errors = tmp_path / "errors"
    call = ("product", "stock", str(product.id), "3")

    child = Child(call, environment=variables, output=Path("/dev/full"), errors=errors)
    status = await asyncio.to_thread(child.wait)
    key = errors.read_text().split("--key ")[1].strip()
    again = await shop_says(shop, tmp_path, *call, "--json", "--key", key)

    assert (status, errors.read_text().startswith("error: it is done, but ")) == (4, True)
    assert (again.status, again.value["stock"]) == (0, 8)


async def test_a_change_that_is_recorded_while_the_ledger_is_away_is_told_as_done(shop: Shop, tmp_path: Path) -> None:
    """Who would take it for failed would ask for it again."""
    sale = await shop.open_sale(units=5, stock=9)
    absent = {"SHOP_REDIS_URL": f"unix://{tmp_path}/absent.sock"}

    said = await shop_says(shop, tmp_path, "sale", "stock", str(sale.id), "3", "--json", **absent)

    assert (said.status, said.value["units_delta"]) == (0, 3)
