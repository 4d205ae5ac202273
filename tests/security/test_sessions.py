"""Tokens end before they run out: after another password or role, or a sign-out everywhere, in every process."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest
from sqlalchemy import text, update

from shop.auth import COMMAND_LINE, Identity, Revocations
from shop.database import Database
from shop.errors import LastAdmin, Unauthorized
from shop.settings import Settings
from shop.stopping import cancel_and_wait
from shop.users import repository, revocation_feed, service
from shop.users.models import Role, User
from tests.harness import Shop, new_user_id, running_shop, wait_until
from tests.security.shoppers import actions, make_shopper

PASSWORD, OTHER_PASSWORD = "correct horse battery", "another horse battery"
ENDS_WITHIN_SECONDS = 1.0


class Account:
    """An account of a running shop, with what its owner does."""

    def __init__(self, shop: Shop, user_id: str, email: str) -> None:
        self.shop, self.id, self.email = shop, user_id, email

    async def sign_in(self, password: str = PASSWORD) -> dict[str, str]:
        """Headers with a new token. Raises AssertionError when the password is another one."""
        answer = await (await self.shop.client()).post(
            "/v1/auth/token", data={"username": self.email, "password": password}
        )
        assert answer.status_code == 200, answer.text
        return bearer(answer)

    async def post(self, path: str, headers: Mapping[str, str], body: object = None) -> httpx.Response:
        return await (await self.shop.client()).post(path, headers=headers, json=body)

    async def change_password(
        self, headers: Mapping[str, str], *, current: str = PASSWORD, new: str = OTHER_PASSWORD
    ) -> httpx.Response:
        return await self.post("/v1/me/password", headers, {"current_password": current, "new_password": new})


def bearer(answer: httpx.Response) -> dict[str, str]:
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def sign_up(shop: Shop) -> Account:
    email = f"{uuid.uuid4().hex}@example.com"
    answer = await (await shop.client()).post("/v1/users", json={"email": email, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return Account(shop, answer.json()["id"], email)


async def is_good(shop: Shop, headers: Mapping[str, str]) -> bool:
    """At the ordinary routes and at the purchase's lane, which must not differ."""
    client = await shop.client()
    me = await client.get("/v1/me", headers=headers)
    purchase = await client.post("/v1/seckill/sales/2147483600/orders", headers=headers, json={})
    assert (me.status_code, purchase.status_code) in {(200, 404), (401, 401), (200, 401), (401, 404)}, me.text
    return me.status_code == 200 and purchase.status_code == 404


async def ends(shop: Shop, headers: Mapping[str, str]) -> None:
    """Return when this token is refused everywhere. Raises OutOfTime when that takes longer than is promised."""

    async def refused() -> bool:
        return not await is_good(shop, headers)

    await wait_until(refused, within=ENDS_WITHIN_SECONDS, reason="the token has ended")


async def test_another_password_ends_all_other_tokens_and_gives_a_new_one(shop: Shop) -> None:
    account = await sign_up(shop)
    here, elsewhere = await account.sign_in(), await account.sign_in()

    changed = await account.change_password(here)

    assert (changed.status_code, changed.headers["Cache-Control"]) == (200, "no-store")
    assert await is_good(shop, bearer(changed))
    for headers in (here, elsewhere):
        await ends(shop, headers)
    assert await is_good(shop, bearer(changed))
    assert await is_good(shop, await account.sign_in(OTHER_PASSWORD))
    with pytest.raises(AssertionError):
        await account.sign_in(PASSWORD)


async def test_a_change_needs_the_current_password_and_counts_as_a_guess(shop: Shop, settings: Settings) -> None:
    """Whoever finds an open session cannot keep the account, nor try passwords in it."""
    account = await sign_up(shop)
    headers = await account.sign_in()
    guesses_left = settings.sign_in_per_minute_per_account - 2

    codes: list[str] = []
    while "rate_limited" not in codes and len(codes) < 2 * guesses_left:  # One more is allowed every six seconds.
        guess = await account.change_password(headers, current=f"guess number {len(codes)}")
        codes.append(guess.json()["code"])

    assert len(codes) > guesses_left
    assert codes == ["wrong_password"] * (len(codes) - 1) + ["rate_limited"]
    assert await is_good(shop, headers)


@pytest.mark.parametrize("new", ["too short", "x" * 129, "control\x07characters", "", None, 1234567890])
async def test_a_new_password_obeys_the_rules_of_the_first(shop: Shop, new: object) -> None:
    account = await sign_up(shop)
    headers = await account.sign_in()

    answer = await account.post("/v1/me/password", headers, {"current_password": PASSWORD, "new_password": new})

    assert answer.status_code == 422, answer.text


async def test_whoever_signs_out_everywhere_may_sign_in_at_once(shop: Shop) -> None:
    """A token that is issued in the same second as the sign-out is good, in every process."""
    account = await sign_up(shop)
    for _ in range(3):
        old = await account.sign_in()
        assert (await account.post("/v1/auth/sign-out-everywhere", old)).status_code == 204
        new = await account.sign_in()
        assert await is_good(shop, new)
        await ends(shop, old)
        assert await is_good(shop, new)


async def test_an_admin_signs_another_account_out(shop: Shop) -> None:
    account = await sign_up(shop)
    headers = await account.sign_in()

    answer = await account.post(f"/v1/admin/users/{account.id}/sign-out", shop.admin_headers())

    assert answer.status_code == 204
    await ends(shop, headers)
    assert await actions(shop.database, account.id) == ["user.signed_out"]


async def test_a_role_is_given_and_taken_and_ends_the_tokens_that_name_the_other(shop: Shop) -> None:
    await sign_up_admin(shop)
    account, client = await sign_up(shop), await shop.client()
    shopper = await account.sign_in()

    promoted = await account.post(f"/v1/admin/users/{account.id}/role", shop.admin_headers(), {"role": "admin"})
    assert (promoted.status_code, promoted.json()["role"]) == (200, "admin")
    await ends(shop, shopper)
    admin = await account.sign_in()
    assert (await client.get("/v1/admin/products", headers=admin)).status_code == 200

    again = await account.post(f"/v1/admin/users/{account.id}/role", shop.admin_headers(), {"role": "admin"})
    assert (again.status_code, await is_good(shop, admin)) == (200, True)
    await account.post(f"/v1/admin/users/{account.id}/role", shop.admin_headers(), {"role": "shopper"})
    await ends(shop, admin)
    assert (await client.get("/v1/admin/products", headers=await account.sign_in())).status_code == 403
    assert await actions(shop.database, account.id) == ["user.role", "user.role"]


async def sign_up_admin(shop: Shop) -> Account:
    """Somebody who stays an admin, so that no other one of the test is the last."""
    account = await sign_up(shop)
    async with shop.database.transaction() as session:
        await service.set_role(session, COMMAND_LINE, user_id=account.id, role=Role.ADMIN)
    return account


async def test_what_is_asked_for_an_account_that_is_not_there_is_not_found(shop: Shop) -> None:
    client, admin, nobody = await shop.client(), shop.admin_headers(), shop.headers(new_user_id())

    assert (await client.post("/v1/admin/users/nobody/sign-out", headers=admin)).status_code == 404
    assert (await client.post("/v1/admin/users/nobody/role", headers=admin, json={"role": "admin"})).status_code == 404
    assert (await client.get("/v1/admin/users/nobody", headers=admin)).status_code == 404
    assert (await client.post("/v1/auth/sign-out-everywhere", headers=nobody)).status_code == 404


async def admins_of(database: Database, count: int) -> list[str]:
    async with database.transaction() as session:
        ids = await service.make_shoppers(session, count)
        for user_id in ids:
            await service.set_role(session, COMMAND_LINE, user_id=user_id, role=Role.ADMIN)
    return ids


@pytest.mark.parametrize("way", ["role", "block"])
async def test_of_two_last_admins_who_leave_at_once_one_stays(database: Database, way: str) -> None:
    """A shop in which nobody may do anything cannot be repaired by asking it."""
    ids = await admins_of(database, 2)

    async def leave(user_id: str) -> None:
        async with database.transaction() as session:
            if way == "role":
                await service.set_role(session, COMMAND_LINE, user_id=user_id, role=Role.SHOPPER)
            else:
                await service.set_blocked(session, COMMAND_LINE, user_id=user_id, blocked=True)

    answers = await asyncio.gather(*map(leave, ids), return_exceptions=True)

    assert {type(answer) for answer in answers} == {type(None), LastAdmin}
    async with database.transaction() as session:
        assert len(await repository.lock_admins(session)) == 1


async def test_a_generation_is_later_than_the_one_before_whatever_the_clock_says(database: Database) -> None:
    user_id = await make_shopper(database)
    ahead = 2**52
    async with database.transaction() as session:
        await session.execute(text("UPDATE users SET token_generation = :ahead"), {"ahead": ahead})

    for n in (1, 2):
        async with database.transaction() as session:
            changed = await repository.begin_generation(session, user_id)
        assert changed is not None
        assert changed.token_generation == ahead + n


@asynccontextmanager
async def following_process(database: Database, settings: Settings) -> AsyncIterator[Revocations]:
    """What a process knows, from the time on at which it would begin to serve."""
    revocations, read, stopping = Revocations(), asyncio.Event(), asyncio.Event()
    quick = settings.model_copy(update={"blocked_poll_seconds": 0.02})
    task = asyncio.create_task(
        revocation_feed.follow_revocations(database, revocations, quick, read=read, stopping=stopping)
    )
    try:
        await asyncio.wait_for(read.wait(), 10)
        yield revocations
    finally:
        stopping.set()
        await cancel_and_wait([task], within=5)


def ended(revocations: Revocations, user_id: str, generation: int = 0) -> bool:
    try:
        revocations.check(Identity(user_id, "shopper", 0, generation))
    except Unauthorized:
        return True
    return False


async def test_a_token_ends_in_every_process_and_in_one_that_starts_later(shop: Shop, settings: Settings) -> None:
    """Each asks Postgres, so there is no message that could be lost on the way to one of them."""
    account = await sign_up(shop)
    old = await account.sign_in()
    async with running_shop(settings, worker=False) as other:
        assert await is_good(other, old)
        new = bearer(await account.change_password(old))
        assert await is_good(other, new)
        await asyncio.gather(ends(shop, old), ends(other, old))
        assert await is_good(other, new)
    async with running_shop(settings, worker=False) as later:
        assert not await is_good(later, old)
        assert await is_good(later, new)


async def test_a_process_that_starts_knows_what_ended_before(database: Database, settings: Settings) -> None:
    user_id = await make_shopper(database)
    async with database.transaction() as session:
        await service.sign_out_everywhere(session, user_id)

    async with following_process(database, settings) as revocations:
        assert ended(revocations, user_id)


async def test_a_change_that_commits_late_is_not_missed(database: Database, settings: Settings) -> None:
    """Another one that began after it has been read before it can be seen."""
    slow, quick = await make_shopper(database), await make_shopper(database)
    async with following_process(database, settings) as revocations:

        async def has_ended(user_id: str) -> bool:
            return ended(revocations, user_id)

        async with database.transaction() as waiting:
            await service.sign_out_everywhere(waiting, slow)
            async with database.transaction() as session:
                await service.sign_out_everywhere(session, quick)
            await wait_until(lambda: has_ended(quick), reason="the second is known")
            assert not ended(revocations, slow)
        await wait_until(lambda: has_ended(slow), reason="the first is known")


async def test_a_server_that_gives_numbers_again_is_read_anew(database: Database, settings: Settings) -> None:
    """After a failover the horizon may go back: what was read before says nothing about what follows."""
    user_id = await make_shopper(database)
    revocations = Revocations()
    seen = await revocation_feed._read(database, revocations, None)
    ahead = revocation_feed._Seen(seen.blocked, seen.horizon + 1_000_000, seen.whole_at)
    async with database.transaction() as session:
        await service.sign_out_everywhere(session, user_id)

    read = await revocation_feed._read(database, revocations, ahead)

    assert ended(revocations, user_id)
    assert read.horizon < ahead.horizon


async def test_what_began_longer_ago_than_any_token_lives_is_forgotten(database: Database, settings: Settings) -> None:
    """What a process remembers is bounded by what happens in that time."""
    old, new = await make_shopper(database), await make_shopper(database)
    async with database.transaction() as session:
        for user_id in (old, new):
            await service.sign_out_everywhere(session, user_id)
        aged = User.token_generation - int(revocation_feed.REMEMBERED_SECONDS + 60) * 1_000
        await session.execute(update(User).where(User.id == old).values(token_generation=aged))

    async with following_process(database, settings) as revocations:
        assert set(revocations._least) == {new}
