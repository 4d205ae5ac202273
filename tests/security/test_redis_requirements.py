"""A ledger is not kept where it may be forgotten, or where others may run code; the refusal says what to change."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio as aioredis
import structlog
from structlog.testing import capture_logs

from shop.embedded import ValkeyServer
from shop.redis import connect
from shop.redis_requirements import known_cve, ledger_problems, server_of
from shop.settings import Settings
from tests.processes import Processes, copy_of

VALKEY_7_2_10 = {"server_name": "valkey", "redis_version": "7.2.4", "valkey_version": "7.2.10"}


class OldRedis(aioredis.Redis):
    """The real server, but for the version that it tells: of those that must be refused none is installed here."""

    version = "7.0.15"

    async def info(self, section: str | None = None) -> dict[str, object]:  # type: ignore[override]
        found = await super().info(section)
        if section != "server":
            return dict(found)
        return {name: value for name, value in found.items() if "version" not in name} | {"redis_version": self.version}


@pytest.mark.parametrize(
    ("product", "version", "fixed"),
    [
        ("redis", (7, 0, 15), False),
        ("redis", (7, 2, 10), False),
        ("redis", (7, 2, 11), True),
        ("redis", (7, 3, 99), False),
        ("redis", (7, 4, 5), False),
        ("redis", (7, 4, 6), True),
        ("redis", (8, 0, 3), False),
        ("redis", (8, 0, 4), True),
        ("redis", (8, 2, 1), False),
        ("redis", (8, 2, 2), True),
        ("redis", (8, 4, 0), True),
        ("valkey", (7, 2, 10), False),
        ("valkey", (7, 2, 11), True),
        ("valkey", (8, 0, 5), False),
        ("valkey", (8, 0, 6), True),
        ("valkey", (8, 1, 3), False),
        ("valkey", (8, 1, 4), True),
        ("valkey", (9, 0, 0), True),
        ("valkey", (9, 1, 2), True),
    ],
)
def test_a_version_has_the_cve_until_its_branch_was_fixed(
    product: str, version: tuple[int, int, int], fixed: bool
) -> None:
    assert (known_cve(product, version) is None) == fixed


def test_a_valkey_is_not_taken_for_the_redis_that_it_calls_itself() -> None:
    assert server_of(VALKEY_7_2_10) == ("valkey", (7, 2, 10))
    assert server_of({"redis_version": "7.0.15"}) == ("redis", (7, 0, 15))


@pytest.fixture
def warnings_logged() -> Iterator[None]:
    """The running shop of other tests logs errors alone."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("warnings_logged")
@pytest.mark.parametrize(
    ("environment", "patched", "refused", "warned"),
    [
        ("production", False, True, False),
        ("production", True, False, False),
        ("test", False, False, True),
        ("development", False, False, True),
        ("development", True, False, False),
    ],
)
async def test_a_version_with_a_known_cve_is_refused_in_production_and_warned_of_elsewhere(
    settings: Settings, redis: aioredis.Redis, environment: str, patched: bool, refused: bool, warned: bool
) -> None:
    """Distributions mend a version and keep its number, so production can be told that they did."""
    old = OldRedis(connection_pool=redis.connection_pool)
    with capture_logs() as logs:
        problems = await ledger_problems(old, copy_of(settings, environment=environment, redis_patched=patched))

    assert any("CVE-2025-49844" in problem and "SHOP_REDIS_PATCHED" in problem for problem in problems) == refused
    assert ("ledger_redis_has_a_known_cve" in {entry["event"] for entry in logs}) == warned


async def test_a_redis_that_cannot_run_the_scripts_is_refused_everywhere(
    settings: Settings, redis: aioredis.Redis
) -> None:
    old = OldRedis(connection_pool=redis.connection_pool)
    old.version = "6.2.20"
    problems = await ledger_problems(old, copy_of(settings, environment="development"))

    assert problems == ["Redis 6.2.20 is too old: the scripts need 7 or newer"]


async def test_only_development_does_without_the_append_only_file(settings: Settings, tmp_path: Path) -> None:
    """F4; eviction is refused everywhere (F5)."""
    server = ValkeyServer(tmp_path, appendonly=False)
    server.start()
    client = connect(server.url, settings)
    try:
        for environment in ("production", "test"):
            (problem,) = await ledger_problems(client, copy_of(settings, environment=environment, redis_patched=True))
            assert "appendonly is off" in problem
        development = copy_of(settings, environment="development")
        assert await ledger_problems(client, development) == []
        await client.config_set("maxmemory-policy", "volatile-lru")
        assert await ledger_problems(client, development) == ["maxmemory-policy is volatile-lru, it must be noeviction"]
    finally:
        await client.aclose(close_connection_pool=True)
        server.stop()


async def test_no_process_starts_on_a_ledger_that_may_be_forgotten(fresh_settings: Settings, tmp_path: Path) -> None:
    """It ends with one sentence that names the wrong setting of the server, before it serves anybody."""
    server = ValkeyServer(tmp_path, extra=("--maxmemory-policy", "allkeys-lru"))
    server.start()
    processes = Processes(fresh_settings, tmp_path)
    try:
        processes.start("api", "api", SHOP_REDIS_URL=server.url)
        assert await processes.until_dead("api") == 1
        assert "durability: maxmemory-policy is allkeys-lru, it must be noeviction" in processes.log("api")
    finally:
        processes.end_all()
        server.stop()


async def test_no_process_starts_with_a_password_that_redis_does_not_know(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    processes = Processes(fresh_settings, tmp_path)
    wrong = f"unix://shop-worker:wrong@{fresh_settings.redis_url.removeprefix('unix://')}"
    processes.start_worker(SHOP_REDIS_URL=wrong)

    assert await processes.until_dead("worker") == 1
    log = processes.log("worker")
    assert "invalid username-password pair" in log
    assert "shop-worker:wrong" not in log
