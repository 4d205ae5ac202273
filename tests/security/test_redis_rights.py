"""Each process has a user of Redis with the rights that it needs, and no others."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis as blocking
import redis.asyncio as aioredis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from shop.embedded import EmbeddedServers, ValkeyServer
from shop.ledger.keys import ledger_keys
from shop.redis import NotSent, all_scripts, connect
from shop.redis_users import API, DEFAULT_USER_OFF, WORKER, RedisUser
from shop.settings import Settings
from tests.harness import LOGINS, Shop, new_user_id, outcome, wait_until
from tests.lua.ledgers import everything, open_ledger
from tests.processes import own_shop
from tests.source_tree import ROOT

USERS = pytest.mark.parametrize("user", [API, WORKER], ids=lambda user: user.name)
URL_OF = {API.name: LOGINS.api_url, WORKER.name: LOGINS.worker_url}

# What brings in code, looks around, or makes the server forget; and what reaches beyond the shop's own keys.
REFUSED = [
    "EVAL return(1) 0",
    "EVAL_RO return(1) 0",
    "FCALL anything 0",
    "FUNCTION LOAD code",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "CONFIG GET *",
    "CONFIG SET maxmemory-policy allkeys-lru",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB 0 1",
    "SHUTDOWN NOSAVE",
    "ACL SETUSER shop-api allcommands",
    "ACL LIST",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "CLIENT PAUSE 1",
    "REPLICAOF 127.0.0.1 1",
    "MODULE LIST",
    "MONITOR",
    "SAVE",
    "BGREWRITEAOF",
    "DUMP shop:sales",
    "RESTORE shop:copy 0 payload",
    "MIGRATE 127.0.0.1 1 shop:sales 0 1",
    "RENAME shop:sales shop:gone",
    "COPY shop:sales shop:copy",
    "PUBLISH shop anything",
    "SUBSCRIBE shop",
    "GET another:application",
    "SET another:application taken",
    "DEL another:application",
]
WORKERS_ALONE = [
    "SCRIPT LOAD return(1)",
    "XTRIM shop:a MAXLEN 0",
    "HDEL shop:sales 1",
    "GET arq:job:1",
    "ZADD shop:jobs 1 a",
]


@pytest.fixture
async def as_user(servers: EmbeddedServers, settings: Settings) -> AsyncIterator[Callable[[RedisUser], aioredis.Redis]]:
    """A client that is one of the shop's users."""
    clients: list[aioredis.Redis] = []

    def connected(user: RedisUser) -> aioredis.Redis:
        clients.append(connect(URL_OF[user.name](f"{servers.redis_url}?db=1"), settings))
        return clients[-1]

    yield connected
    for client in clients:
        await client.aclose(close_connection_pool=True)


async def send(client: aioredis.Redis, command: str) -> object:
    """A command as it is written."""
    return await client.execute_command(*command.split())  # type: ignore[no-untyped-call]


@USERS
@pytest.mark.parametrize("command", REFUSED)
async def test_no_process_can_bring_in_code_look_around_or_forget(
    as_user: Callable[[RedisUser], aioredis.Redis], user: RedisUser, command: str
) -> None:
    with pytest.raises(NoPermissionError):
        await send(as_user(user), command)


@pytest.mark.parametrize("command", WORKERS_ALONE)
async def test_what_only_the_worker_does_is_refused_to_the_api(
    as_user: Callable[[RedisUser], aioredis.Redis], command: str
) -> None:
    with pytest.raises(NoPermissionError):
        await send(as_user(API), command)
    try:
        await send(as_user(WORKER), command)
    except NoPermissionError:
        raise
    except ResponseError:
        pass  # allowed, and then refused for what it says


@USERS
async def test_a_script_has_no_more_rights_than_the_process_that_sends_it(
    as_user: Callable[[RedisUser], aioredis.Redis], redis: aioredis.Redis, user: RedisUser
) -> None:
    """Should a foreign script ever be loaded, it cannot leave the shop's keys or look around."""
    for body in ("return redis.call('GET', 'another:application')", "return redis.call('KEYS', '*')"):
        sha = await redis.script_load(body)
        with pytest.raises(ResponseError, match=r"(?i)ACL|user executing the script"):
            await as_user(user).evalsha(sha, 0)  # type: ignore[misc]


@USERS
def test_a_user_has_every_command_of_the_scripts(user: RedisUser) -> None:
    called = {
        name.lower() for script in all_scripts() for name in re.findall(r"redis\.p?call\('([A-Z]+)'", script.source)
    }

    assert called - set(user.commands) == set()


async def test_rights_of_the_release_before_refuse_a_purchase_before_its_first_write(
    as_user: Callable[[RedisUser], aioredis.Redis], redis: aioredis.Redis
) -> None:
    """A server whose users were not brought up to date: nothing is half done, and NotSent is true."""
    ledger = await open_ledger(redis)
    await ledger.buy((1, "ann", 1))
    before = await everything(redis)
    await send(redis, f"ACL SETUSER {API.name} -bitfield")
    try:
        with pytest.raises(NotSent, match=r"(?i)ACL|user executing the script"):
            await replace(ledger, redis=as_user(API)).buy((2, "bob", 1))
    finally:
        await send(redis, f"ACL SETUSER {API.name} +bitfield")

    assert await everything(redis) == before


@USERS
def test_the_containers_give_the_users_the_same_rights(user: RedisUser) -> None:
    """docker-compose.yml cannot read Python, so it says them again."""
    compose = (ROOT / "docker-compose.yml").read_text()

    lines = re.findall(rf"^ +user {user.name} on >\$\{{[^}}]+\}} (.*)$", compose, re.MULTILINE)
    assert lines == [user.rules]
    assert re.findall(r"^ +user (\S+)", compose, re.MULTILINE) == ["default", API.name, WORKER.name]


async def test_everything_works_with_the_rights_of_its_own_process(fresh_settings: Settings, tmp_path: Path) -> None:
    """Bought, repeated, cancelled, changed, drained, audited, and another sale from its schedule until it is forgotten.

    Not one command of the two processes was refused: the server keeps a log of those.
    """
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop, user = own.shop, new_user_id()
        client = await shop.client()
        sale = await shop.open_sale(units=2, stock=3)
        unsold = await shop.open_sale(units=1)
        order = (await shop.buy(sale, user, key="mine")).json()
        assert outcome(await shop.buy(sale, user, key="mine")) == "replayed"
        assert await shop.rush(sale, buyers=2) == {"reserved": 1, "sold_out": 1}
        await shop.drained(sale)
        assert (await client.get(f"/v1/products/{sale.product_id}")).status_code == 200
        assert (await client.post(f"/v1/orders/{order['id']}/cancel", headers=shop.headers(user))).status_code == 200
        await shop.buys(sale)
        for verb, body in (("pause", None), ("resume", None), ("stock", {"delta": 1}), ("close", None)):
            assert (await shop.change(sale, verb, body)).json()["outcome"] == "applied"
        await shop.change(unsold, "close")
        await shop.drained(sale)
        assert (await shop.audit(sale)).balanced
        assert (await client.get("/readyz")).status_code == 200

        async def unsold_forgotten() -> bool:
            return not await shop.redis.exists(ledger_keys(unsold.id, 1).sale)

        async def jobs_ran() -> bool:
            return bool(await shop.redis.exists("shop:jobs:health-check"))

        await wait_until(unsold_forgotten, reason="the settled sale is forgotten")
        await wait_until(jobs_ran, reason="arq runs")
        assert await shop.redis.execute_command("ACL", "LOG") == []  # type: ignore[no-untyped-call]


async def test_a_rolled_back_ledger_is_fenced_with_the_rights_of_the_api(shop: Shop) -> None:
    """The API closes a sale by itself when it sees one; that is the one thing that it writes without a script."""
    client = connect(LOGINS.api_url(shop.settings.redis_url), shop.settings)
    try:
        assert await client.hset("shop:{0.0}:sale", "epoch", "fenced.0") == 1  # type: ignore[misc]
    finally:
        await client.aclose(close_connection_pool=True)
        await shop.redis.delete("shop:{0.0}:sale")


def test_the_server_of_a_shop_on_this_machine_refuses_everybody_without_a_password(tmp_path: Path) -> None:
    """`shop up` and `shop demo` start it like this; a restart knows the same passwords."""
    server = ValkeyServer(tmp_path, users=[DEFAULT_USER_OFF, *LOGINS.lines])
    server.start()
    try:
        with pytest.raises(NoPermissionError):
            blocking.Redis.from_url(server.url, lib_name=None, lib_version=None).get("shop:sales")
        server.kill()
        server.start()
        assert blocking.Redis.from_url(LOGINS.api_url(server.url)).get("shop:nothing") is None
        wrong = LOGINS.api_url(server.url).replace("the%20API", "another%20API")
        with pytest.raises(AuthenticationError):
            blocking.Redis.from_url(wrong).get("shop:nothing")
        assert "the API's" not in (server.directory / "users.acl").read_text()
        assert (server.directory / "users.acl").stat().st_mode & 0o077 == 0
    finally:
        server.stop()
