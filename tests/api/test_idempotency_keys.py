"""The key in the transaction of the effect: who comes second waits and is told the same; who failed left nothing."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from pydantic import BaseModel
from sqlalchemy import func, select, text, update

from shop.database import Database
from shop.errors import IdempotencyMismatch, NotEnoughStock
from shop.idempotency.models import IdempotencyKey
from shop.idempotency.service import Answer, Asked, fingerprint, forget_old, once
from shop.settings import Settings
from shop.worker import Context
from shop.worker.jobs import run_due
from tests.harness import wait_until
from tests.processes import copy_of


class Told(BaseModel):
    number: int


def asked(key: str = "key", user_id: str = "ann", body: bytes = b'{"delta":1}') -> Asked:
    return Asked(user_id, key, fingerprint("POST", "/stock", body))


def telling(number: int) -> Callable[[], Awaitable[Told]]:
    async def work() -> Told:
        return Told(number=number)

    return work


async def ask(database: Database, request: Asked, number: int) -> Answer:
    async with database.transaction() as session:
        return await once(session, request, telling(number))


async def kept(database: Database) -> set[str]:
    async with database.transaction() as session:
        return set(await session.scalars(select(IdempotencyKey.key)))


async def age(database: Database, key: str, **by: float) -> None:
    """Make a key older than it is."""
    async with database.transaction() as session:
        aged = update(IdempotencyKey).where(IdempotencyKey.key == key)
        await session.execute(aged.values(created_at=func.now() - timedelta(**by)))


async def until_one_waits(database: Database) -> None:
    """Return when somebody waits for a lock."""

    async def waits() -> bool:
        async with database.transaction() as session:
            query = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return bool((await session.execute(query)).scalar_one())

    await wait_until(waits, reason="the second waits for the first")


async def test_the_first_answer_is_told_to_whoever_asks_again(database: Database) -> None:
    first, second = await ask(database, asked(), 1), await ask(database, asked(), 2)

    assert first == Answer(200, '{"number":1}', replayed=False)
    assert second == Answer(200, '{"number":1}', replayed=True)


async def test_the_status_is_told_again_as_well(database: Database) -> None:
    async with database.transaction() as session:
        await once(session, asked(), telling(1), status=202)

    assert (await ask(database, asked(), 2)).status == 202


async def test_a_second_request_waits_for_the_first_and_is_told_the_same(database: Database) -> None:
    async with database.transaction() as session:
        await once(session, asked(), telling(1))
        second = asyncio.create_task(ask(database, asked(), 2))
        await until_one_waits(database)
        assert not second.done()

    assert await second == Answer(200, '{"number":1}', replayed=True)


async def test_a_second_request_does_the_work_when_the_first_was_refused(database: Database) -> None:
    async def refused_while_another_waits() -> Told:
        waiting.append(asyncio.create_task(ask(database, asked(), 2)))
        await until_one_waits(database)
        raise NotEnoughStock

    waiting: list[asyncio.Task[Answer]] = []
    with pytest.raises(NotEnoughStock):
        async with database.transaction() as session:
            await once(session, asked(), refused_while_another_waits)

    [second] = waiting
    assert await second == Answer(200, '{"number":2}', replayed=False)


async def test_the_same_key_of_another_user_is_another_key(database: Database) -> None:
    await ask(database, asked(user_id="ann"), 1)

    assert await ask(database, asked(user_id="bob"), 2) == Answer(200, '{"number":2}', replayed=False)


async def test_a_key_that_was_used_for_something_else_is_refused(database: Database) -> None:
    await ask(database, asked(), 1)

    with pytest.raises(IdempotencyMismatch):
        await ask(database, asked(body=b'{"delta":2}'), 1)


@pytest.mark.parametrize("same", ['{"b":1,"a":2}', ' { "a" : 2,\n"b":1 } '])
def test_the_same_json_is_the_same_request_however_it_is_written(same: str) -> None:
    body = json.dumps({"a": 2, "b": 1}).encode()

    assert fingerprint("POST", "/stock", same.encode()) == fingerprint("POST", "/stock", body)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/stock", b"{}"),
        ("POST", "/stocks", b"{}"),
        ("POST", "/stock", b'{"a":1}'),
        ("POST", "/stock", b""),
        ("POST", "/stock", b"{"),
        ("POST", "/stock", b"[" * 60_000),
        ("POST/", "stock", b"{}"),
    ],
)
def test_another_method_path_or_body_is_another_request(method: str, path: str, body: bytes) -> None:
    assert fingerprint(method, path, body) != fingerprint("POST", "/stock", b"{}")


async def test_a_key_is_forgotten_when_it_was_kept_long_enough_and_not_before(
    database: Database, settings: Settings
) -> None:
    for key, hours in (
        ("old", settings.idempotency_keep_hours + 0.1),
        ("young", settings.idempotency_keep_hours - 0.1),
    ):
        await ask(database, asked(key), 1)
        await age(database, key, hours=hours)

    assert await forget_old(database, settings) == 1
    assert await kept(database) == {"young"}


async def test_one_run_forgets_no_more_than_its_batches_and_the_oldest_first(
    database: Database, settings: Settings
) -> None:
    bounded = copy_of(settings, idempotency_forget_batch_max=2, idempotency_forget_batches_max=3)
    for number in range(8):
        await ask(database, asked(f"key-{number}"), 1)
        await age(database, f"key-{number}", days=10 - number)

    assert await forget_old(database, bounded) == 6
    assert await kept(database) == {"key-6", "key-7"}


def test_a_key_is_kept_for_a_day_at_least(settings: Settings) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 24"):
        copy_of(settings, idempotency_keep_hours=23)


async def test_the_worker_forgets_old_keys_by_itself(database: Database, settings: Settings) -> None:
    await ask(database, asked("old"), 1)
    await age(database, "old", days=100)
    context = Context.connect(settings)

    await run_due({"shop": context}, ["forget_keys"])

    assert await kept(database) == set()
    await context.close()
