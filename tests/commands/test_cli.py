"""The command line: every command explains itself, speaks JSON, and fails with one clear line and a status."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from shop.cli import app
from shop.local import environment_of
from shop.settings import Settings
from tests.commands.all_commands import members
from tests.harness import create_database, wait_until
from tests.nursery import run, start
from tests.processes import copy_of, own_shop

UP_SECONDS = 60.0
LONG = "1234567890" * 4

_numbers = count(1)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, groups too."""
    yield path, group
    for name, command in members(group).items():
        yield from commands(command, (*path, name))


def test_every_command_explains_itself(tmp_path: Path) -> None:
    """`--help` works everywhere, says what the command does, and shows its example."""
    found = dict(commands(typer.main.get_command(app)))

    assert {("demo",), ("up",), ("reset",), ("api",), ("worker",), ("migrate",), ("openapi",)} <= found.keys()
    assert {("user", name) for name in ("create", "tokens", "block", "role", "password", "sign-out")} <= found.keys()
    assert {("product", name) for name in ("create", "stock")} <= found.keys()
    assert {("order", name) for name in ("list", "show", "trail")} <= found.keys()
    assert {("sale", "list"), ("sale", "show"), ("user", "list"), ("payment", "list")} <= found.keys()
    verbs = ["create", "schedule", "window", "pause", "resume", "close", "stock", "audit", "quarantine", "recover"]
    assert {("sale", verb) for verb in verbs} <= found.keys()
    for path, command in found.items():
        said = run(tmp_path, *path, "--help")
        assert (said.status, said.errors) == (0, ""), path
        assert "Usage: shop" in said.output, path
        example = (command.epilog or "").strip().splitlines()
        assert not example or example[-1].strip() in said.output, path
        if not hasattr(command, "commands"):
            assert "--json" in said.output, path


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("sale", "create"),
        ("sale", "stock", "one", "1"),
        ("sale", "pause", "0"),
        ("product", "create", "Ticket", "--price", "-1"),
        ("demo", "--units", "0"),
        ("demo", "--wat"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A word that is wrong is named, and nothing is started."""
    said = run(tmp_path, *arguments, SHOP_ENVIRONMENT="development")

    assert (said.status, said.output) == (2, "")
    assert "Usage: shop" in said.errors
    assert "Traceback" not in said.errors


def test_a_value_that_breaks_a_rule_ends_with_status_2(tmp_path: Path) -> None:
    """The rule is the API's; the message names the value, and with --json it is one object."""
    said = run(
        tmp_path, "user", "create", "nobody", "--password", "long enough", "--json", SHOP_ENVIRONMENT="development"
    )

    assert (said.status, said.errors) == (2, "")
    assert "email" in said.value["error"]["detail"]


@pytest.mark.parametrize("command", [("api",), ("worker",), ("migrate",), ("sale", "audit", "1")], ids=" ".join)
@pytest.mark.parametrize("secret", ["", "too-short"], ids=["no secret", "a short one"])
def test_production_refuses_a_weak_secret(command: tuple[str, ...], secret: str, tmp_path: Path) -> None:
    """Production is what a shop is when nobody says otherwise."""
    said = run(tmp_path, *command, **({"SHOP_SECRET_KEY": secret} if secret else {}))

    assert (said.status, said.output) == (2, "")
    assert "SHOP_SECRET_KEY" in said.errors
    assert "Traceback" not in said.errors


@pytest.mark.parametrize("down", ["postgres", "redis"])
@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_server_that_is_down_at_the_start_is_named(
    command: str, down: str, live_settings: Settings, tmp_path: Path
) -> None:
    """One clear line and status 1, no traceback; the process does not come up half."""
    absent = {
        "postgres": {"database_url": f"postgresql+asyncpg://shop@/shop?host={tmp_path}"},
        "redis": {"redis_url": f"unix://{tmp_path}/absent.sock"},
    }
    settings = copy_of(live_settings, **absent[down], metrics_port=0, worker_metrics_port=0)

    said = run(tmp_path, command, **environment_of(settings))

    assert (said.status, said.output) == (1, "")
    assert said.errors.startswith(f"error: {down}: ")
    assert said.errors.count("\n") == 1


@pytest.mark.parametrize("command", [("migrate",), ("sale", "pause", "1"), ("user", "tokens")], ids=" ".join)
def test_a_command_that_needs_postgres_says_that_it_is_down(
    command: tuple[str, ...], live_settings: Settings, tmp_path: Path
) -> None:
    """The same for what runs once; with --json the error is one object."""
    settings = copy_of(live_settings, database_url=f"postgresql+asyncpg://shop@/shop?host={tmp_path}")

    said = run(tmp_path, *command, "--json", **environment_of(settings))

    assert (said.status, said.value["error"].keys()) == (1, {"code", "detail"})
    assert "Traceback" not in said.errors


async def test_a_database_that_is_not_migrated_is_refused_at_the_start(live_settings: Settings, tmp_path: Path) -> None:
    """The message says what to do."""
    url = create_database(live_settings.database_url, f"cli_{next(_numbers)}")
    settings = copy_of(live_settings, database_url=url, worker_metrics_port=0)

    said = run(tmp_path, "worker", **environment_of(settings))

    assert (said.status, said.errors) == (1, "error: migrations: run `shop migrate`\n")


async def test_a_whole_sale_by_the_command_line(live_settings: Settings, tmp_path: Path) -> None:
    """From an empty database to the audit; every command prints one JSON value."""
    url = create_database(live_settings.database_url, f"cli_{next(_numbers)}")
    settings = copy_of(live_settings, database_url=url, worker_metrics_port=0)

    async def shop(*arguments: str, status: int = 0, **other: str) -> Any:
        variables = {**environment_of(settings), **other}
        said = await asyncio.to_thread(run, tmp_path, *arguments[:2], "--json", *arguments[2:], **variables)
        assert said.status == status, said
        return said.value

    assert await shop("migrate") == {"migrated": "head"}
    async with own_shop(settings, tmp_path) as own:
        settings = own.shop.settings
        worker, output, _ = start(tmp_path, "worker", "--json", **environment_of(settings))
        own.processes.running["worker"] = worker

        admin = await shop("user", "create", "Admin@Example.com", "--admin", "--password", "a long password")
        assert (admin["email"], admin["role"]) == ("admin@example.com", "admin")
        kept = await shop("user", "role", admin["id"], "shopper", status=1)
        assert kept["error"]["code"] == "last_admin"
        taken = await shop("user", "create", "admin@example.com", "--password", "a long password", status=1)
        assert taken["error"]["code"] == "email_taken"
        shoppers = await shop("user", "tokens", "--count", "3")
        assert len({each["user_id"] for each in shoppers}) == 3
        product = await shop("product", "create", "Golden Ticket", "--price", "990", "--stock", "5")
        for _ in range(2):
            moved = await shop("product", "stock", str(product["id"]), "3", "--key", "once")
            assert moved["stock"] == 8
        other = await shop("product", "stock", str(product["id"]), "4", "--key", "once", status=1)
        assert other["error"]["code"] == "idempotency_mismatch"

        wishes = ("--product", str(product["id"]), "--units", "5", "--starts-in", "0", "--lasts", "60")
        sale = await shop("sale", "create", *wishes)
        number = str(sale["id"])
        assert (sale["status"], sale["phase"], sale["price_minor"]) == ("draft", "draft", 990)
        assert (await shop("sale", "close", number, status=1))["error"]["code"] == "sale_state"
        assert (await shop("sale", "schedule", number))["status"] == "scheduled"
        assert (await shop("sale", "schedule", number, status=1))["error"]["code"] == "sale_state"
        assert (await shop("sale", "schedule", "99", status=1))["error"]["code"] == "not_found"
        assert json.loads(output.read_text()) == {"worker": "running"}

        client = await own.shop.client()

        async def buy(shopper: Mapping[str, str]) -> httpx.Response:
            headers = {"Authorization": f"Bearer {shopper['token']}"}
            return await client.post(f"/v1/seckill/sales/{number}/orders", headers=headers, json={})

        async def sold() -> bool:
            return (await buy(shoppers[0])).status_code in {200, 202}

        await wait_until(sold, reason="the API has learned of the sale")
        assert (await shop("sale", "pause", number))["outcome"] == "applied"
        assert (await buy(shoppers[1])).json()["code"] == "sale_paused"
        assert (await shop("sale", "resume", number))["outcome"] == "applied"
        assert (await buy(shoppers[1])).status_code == 202
        for _ in range(2):
            more = await shop("sale", "stock", number, "3", "--key", "more")
            assert (more["units_delta"], more["n"], more["outcome"]) == (3, 3, "applied")
        refused = await shop("sale", "stock", number, "--", "-7", status=1)
        assert refused["error"]["code"] == "change_refused"
        moved = await shop("sale", "window", number, "--ends-at", "2100-01-01T00:00:00")
        assert (moved["outcome"], moved["ends_at"]) == ("applied", "2100-01-01T00:00:00Z")
        blocked = await shop("user", "block", shoppers[2]["user_id"])
        assert blocked == {"id": shoppers[2]["user_id"], "blocked": True}

        assert (await shop("user", "role", shoppers[2]["user_id"], "admin"))["role"] == "admin"
        assert await shop("user", "sign-out", "Admin@example.com") == {"id": admin["id"]}
        assert (await shop("user", "sign-out", "nobody@example.com", status=1))["error"]["code"] == "not_found"
        variables = environment_of(settings)
        new = "Gr\u00fc\u00dfe aus K\u00f6ln"
        said = await asyncio.to_thread(
            run, tmp_path, "user", "password", "admin@example.com", answers=f"{new}\n", **variables
        )
        assert (said.status, new in said.output + said.errors) == (0, False), said
        signed_in = await client.post("/v1/auth/token", data={"username": admin["email"], "password": new})
        assert signed_in.status_code == 200
        short = await asyncio.to_thread(
            run, tmp_path, "user", "password", "admin@example.com", answers="short\n", **variables
        )
        assert (short.status, short.errors.startswith("error: new_password: ")) == (2, True), short

        order_id = (await buy(shoppers[1])).json()["id"]
        found = await shop("order", "trail", order_id)
        assert (found["order_id"], found["sale_id"], found["ledger"]["status"]) == (order_id, int(number), "held")
        assert ("ledger", "reserved") in [(each["source"], each["event"]) for each in found["entries"]]
        said = await asyncio.to_thread(run, tmp_path, "order", "trail", order_id, **environment_of(settings))
        assert (said.status, "reserved" in said.output, "balance" in said.output) == (0, True, True)
        unknown = await shop("order", "trail", f"{order_id[:-12]}000000000000", status=1)
        assert unknown["error"]["code"] == "not_found"

        audit = await shop("sale", "audit", number)
        assert (audit["units"], audit["held"], set(audit["invariants"].values())) == (8, 2, {True})
        assert (await shop("sale", "quarantine", number, "99", status=1))["error"]["code"] == "not_found"
        absent = {"SHOP_REDIS_URL": f"unix://{tmp_path}/absent.sock"}
        assert (await shop("sale", "audit", number, status=1, **absent))["error"]["code"] == "unavailable"
        assert (await shop("sale", "close", number))["outcome"] == "applied"

        async def ended() -> bool:
            return bool((await shop("sale", "audit", number))["units"] == 2)

        await wait_until(ended, reason="the unsold units went back")
        said = await asyncio.to_thread(run, tmp_path, "sale", "audit", number, **environment_of(settings))
        assert (said.status, "I1" in said.output) == (0, True)
        assert await shop("sale", "recover", number) == {"sale_id": 1, "recovery": 1, "epoch": 1, "step": "fence"}
        assert (await shop("sale", "recover", "99", status=1))["error"]["code"] == "not_found"


def test_what_needs_no_server_prints_one_json_value(tmp_path: Path) -> None:
    """The documents are the same with and without `--json`."""
    development = {"SHOP_ENVIRONMENT": "development"}

    assert run(tmp_path, "openapi", "--json", **development).value["openapi"].startswith("3.")
    assert run(tmp_path, "openapi", **development).value["openapi"].startswith("3.")
    assert {"variable", "default", "meaning"} == run(tmp_path, "settings", "--json", **development).value[0].keys()
    assert run(tmp_path, "reset", "--json", **development).value == {"deleted": False, "directory": ".shop"}


def test_reset_asks_before_it_deletes(tmp_path: Path) -> None:
    """No, nothing and an end of the input keep the data."""
    kept = tmp_path / ".shop" / "kept"
    kept.parent.mkdir()
    kept.write_text("data")

    for answers in ("n\n", "\n", ""):
        said = run(tmp_path, "reset", answers=answers)
        assert said.status != 0
        assert str(kept.parent) in said.output + said.errors
        assert kept.exists()
    assert run(tmp_path, "reset", answers="y\n").status == 0
    assert not kept.parent.exists()
