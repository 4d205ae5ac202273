"""docs/notifications.md says what is so: a merchant who copies its code can read what the shop sends."""

import re
from typing import Any

import msgspec
import pytest

from shop.database import Database
from shop.notifications.kinds import Kind
from shop.settings import Settings
from tests.notifications.outbox import deliver, make_webhook, reserved
from tests.notifications.receivers import merchant
from tests.processes import copy_of
from tests.source_tree import ROOT

PAGE = (ROOT / "docs" / "notifications.md").read_text()


def block(language: str) -> str:
    """The first block of code in this language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def near(settings: Settings) -> Settings:
    return copy_of(settings, webhook_private_addresses_allowed=True)


async def test_its_code_verifies_and_its_example_looks_like_what_is_sent(database: Database, near: Settings) -> None:
    async with merchant() as receiver:
        webhook = await make_webhook(database, receiver.url())
        await reserved(database, near)
        await deliver(database, near)
    [request] = receiver.requests
    handled: list[dict[str, Any]] = []
    names: dict[str, Any] = {"remember": lambda _: True, "handle": handled.append}
    exec(re.sub(r"whsec_\w+", webhook.secret, block("python")), names)  # noqa: S102 - it is our own page

    names["receive"](request.body, request.headers)

    example: dict[str, Any] = msgspec.json.decode(block("json"))
    assert handled == [request.event]
    assert set(example) == set(request.event)
    assert set(example["data"]) == set(request.event["data"])
    assert set(example["data"]["lines"][0]) == set(request.event["data"]["lines"][0])


@pytest.mark.parametrize("kind", Kind)
def test_it_names_every_event(kind: Kind) -> None:
    assert f"| `{kind}` |" in PAGE


def test_it_names_settings_that_there_are() -> None:
    named = set(re.findall(r"SHOP_([A-Z_]+)", PAGE))

    assert named
    assert named <= {name.upper() for name in Settings.model_fields}
