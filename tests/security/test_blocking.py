"""An admin blocks an account, and within a second it may do nothing, in any process."""

import asyncio
from types import SimpleNamespace

import pytest

from shop.auth import COMMAND_LINE, Identity, Revocations
from shop.database import Database
from shop.errors import UserBlocked, UserNotFound
from shop.settings import Settings
from shop.stopping import cancel_and_wait
from shop.users import repository, revocation_feed, service
from shop.users.passwords import Passwords
from tests.harness import Shop, wait_until
from tests.security.shoppers import actions, make_shopper

PASSWORD = "correct horse battery"


async def set_blocked(database: Database, user_id: str, *, blocked: bool) -> None:
    async with database.transaction() as session:
        await service.set_blocked(session, COMMAND_LINE, user_id=user_id, blocked=blocked)


def is_blocked(revocations: Revocations, user_id: str) -> bool:
    try:
        revocations.check(Identity(user_id, "shopper", 0))
    except UserBlocked:
        return True
    return False


async def test_a_blocked_account_is_refused_within_a_second_and_comes_back(shop: Shop) -> None:
    client, admin, user_id = await shop.client(), shop.admin_headers(), await make_shopper(shop.database)
    shopper = shop.headers(user_id)

    async def answers(status: int) -> bool:
        return (await client.get("/v1/me", headers=shopper)).status_code == status

    assert await answers(200)
    assert (await client.post(f"/v1/admin/users/{user_id}/block", headers=admin)).status_code == 204
    await wait_until(lambda: answers(403), within=1)
    assert (await client.get("/v1/me", headers=shopper)).json()["code"] == "user_blocked"

    assert (await client.post(f"/v1/admin/users/{user_id}/unblock", headers=admin)).status_code == 204
    await wait_until(lambda: answers(200), within=1)


async def test_only_an_admin_may_block(shop: Shop) -> None:
    client, shopper = await shop.client(), shop.headers()

    assert (await client.post("/v1/admin/users/ada/block", headers=shopper)).json()["code"] == "forbidden"
    assert (await client.post("/v1/admin/users/ada/block")).status_code == 401


@pytest.mark.parametrize(
    ("user_id", "status"), [("nobody", 404), ("a:b", 422), ("%7D", 422), ("%00", 422), ("ä", 422), ("a" * 65, 422)]
)
async def test_an_unknown_or_hostile_id_cannot_be_blocked(shop: Shop, user_id: str, status: int) -> None:
    client, admin = await shop.client(), shop.admin_headers()

    assert (await client.post(f"/v1/admin/users/{user_id}/block", headers=admin)).status_code == status


async def test_a_blocked_account_gets_no_token(database: Database, settings: Settings) -> None:
    """Whoever has the password is told so; whoever has not learns nothing."""
    passwords = Passwords(settings)
    async with database.transaction() as session:
        user = await service.register(session, passwords, email="ada@example.com", password=PASSWORD)
    await set_blocked(database, user.id, blocked=True)

    with pytest.raises(UserBlocked):
        await service.sign_in(database, passwords, email="ada@example.com", password=PASSWORD)
    passwords.close()


async def test_each_change_is_recorded_once(database: Database) -> None:
    """Blocking twice is the same as once."""
    user_id = await make_shopper(database)
    for blocked in (True, True, False, False, True):
        await set_blocked(database, user_id, blocked=blocked)

    assert await actions(database, user_id) == ["user.blocked", "user.unblocked", "user.blocked"]


async def test_blocking_nobody_records_nothing(database: Database) -> None:
    with pytest.raises(UserNotFound):
        await set_blocked(database, "nobody", blocked=True)

    assert await actions(database, "nobody") == []


async def test_any_change_of_the_set_changes_its_fingerprint(database: Database) -> None:
    """Also when one is unblocked and another blocked between two polls."""
    ada, bob = await make_shopper(database), await make_shopper(database)
    seen = []
    for steps in ([], [(ada, True)], [(ada, False), (bob, True)], [(ada, True)], [(bob, False)], [(ada, False)]):
        for user_id, blocked in steps:
            await set_blocked(database, user_id, blocked=blocked)
        async with database.transaction() as session:
            seen.append((await repository.blocked_fingerprint(session))[0])

    assert seen[0] == seen[-1]
    assert len(set(seen)) == len(seen) - 1


async def test_the_last_known_set_counts_while_postgres_is_away(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on by itself afterwards, and has said once what was wrong."""
    ada, bob = await make_shopper(database), await make_shopper(database)
    await set_blocked(database, ada, blocked=True)
    revocations = Revocations()
    polls, warnings = 0, []
    monkeypatch.setattr(revocation_feed, "_log", SimpleNamespace(warning=lambda event, **_: warnings.append(event)))
    read = revocation_feed._read

    async def away(
        database: Database, asking: Revocations, seen: revocation_feed._Seen | None
    ) -> revocation_feed._Seen:
        nonlocal polls
        if asking is not revocations:  # a shop that runs in this process as well
            return await read(database, asking, seen)
        polls += 1
        raise ConnectionRefusedError("Postgres is away")

    async def holds(user_id: str) -> bool:
        return is_blocked(revocations, user_id)

    async def polled() -> bool:
        return polls >= 3

    quick = settings.model_copy(update={"blocked_poll_seconds": 0.01})
    follower = asyncio.create_task(
        revocation_feed.follow_revocations(database, revocations, quick, read=asyncio.Event(), stopping=asyncio.Event())
    )
    try:
        await wait_until(lambda: holds(ada))
        monkeypatch.setattr(revocation_feed, "_read", away)
        await wait_until(polled)
        assert is_blocked(revocations, ada)
        await set_blocked(database, bob, blocked=True)
        monkeypatch.setattr(revocation_feed, "_read", read)
        await wait_until(lambda: holds(bob))
    finally:
        await cancel_and_wait([follower])

    assert warnings == ["revocations_not_read"]
