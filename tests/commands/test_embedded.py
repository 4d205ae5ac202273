"""The embedded servers are real, private, keep their data, and never outlive whoever started them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from shop.embedded import (
    EmbeddedServers,
    PostgresServer,
    ServerUnavailable,
    ValkeyServer,
    binaries,
    embedded_servers,
    process,
)

DEADLINE_SECONDS = 15.0

# A parent that starts both servers, tells their processes, and waits to be killed.
PARENT = """
import sys
from pathlib import Path
from shop.embedded import embedded_servers, process

process.WATCHES_PARENT = sys.argv[2] == "watcher"
with embedded_servers(Path(sys.argv[1]), durable=False) as servers:
    print(servers.valkey.pid, servers.postgres.pid, flush=True)
    sys.stdin.read()
"""

# A root that may not make user namespaces, as in most containers: it is in one where their number is limited to none.
ROOT_WITHOUT_NAMESPACES = """
import ctypes, os, sys
from pathlib import Path
from shop.embedded import PostgresServer

ready, mapped = os.pipe(), os.pipe()
outside = os.getpid()
if os.fork() == 0:
    os.read(ready[0], 1)
    for kind in ("uid", "gid"):
        Path(f"/proc/{outside}/{kind}_map").write_text("0 0 65536")
    os.write(mapped[1], b"x")
    os._exit(0)
assert ctypes.CDLL(None).unshare(0x10000000) == 0
os.write(ready[1], b"x")
os.read(mapped[0], 1)
os.wait()
Path("/proc/sys/user/max_user_namespaces").write_text("0")

server = PostgresServer(Path(sys.argv[1]), durable=False)
server.start()
server.kill()
server.start()
print(Path(f"/proc/{server.pid}/status").read_text())
server.stop()
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """One pair of servers for the tests that leave it running."""
    with embedded_servers(tmp_path_factory.mktemp("servers"), durable=False) as running:
        yield running


async def query(url: str, statement: str) -> Any:
    """The first value that one statement in a transaction and a connection of its own returns, or None."""
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        result = await connection.execute(text(statement))
        return result.scalar() if result.returns_rows else None


def valkey(url: str) -> Any:
    """A client of the embedded Valkey."""
    return redis.Redis.from_url(url, decode_responses=True)


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def gone(*pids: int) -> bool:
    """Whether none of the processes runs any more. One that ended and that nobody asked for its status is gone too."""
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


async def test_both_servers_answer_at_their_urls(servers: EmbeddedServers) -> None:
    """The URLs are those that redis-py and SQLAlchemy with asyncpg take."""
    assert valkey(servers.redis_url).ping()
    assert await query(servers.database_url, "SELECT current_user || '@' || current_database()") == "shop@shop"


async def test_a_postgres_port_in_the_environment_changes_nothing(
    servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A developer's own settings for another server must not lead the shop astray."""
    monkeypatch.setenv("PGPORT", "6543")

    assert await query(servers.database_url, "SELECT 1") == 1


def test_no_server_listens_on_tcp(servers: EmbeddedServers) -> None:
    """Only who may enter the private directory reaches a server."""
    pids = family(servers.valkey.pid) + family(servers.postgres.pid)

    assert [psutil.Process(pid).net_connections(kind="inet") for pid in pids] == [[]] * len(pids)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (servers.valkey.directory, servers.postgres.directory))


def test_valkey_writes_before_it_answers_and_never_evicts(servers: EmbeddedServers) -> None:
    """The ledger's promises rest on these settings."""
    names = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save", "maxmemory-policy")

    settings = valkey(servers.redis_url).config_get(*names)

    assert [settings[name] for name in names] == ["yes", "always", "no", "", "noeviction"]


def test_the_side_server_evicts_and_writes_nothing_to_the_disk(tmp_path: Path) -> None:
    """What it has may be lost."""
    with embedded_servers(tmp_path, durable=False, side=True) as servers:
        assert servers.side is not None
        client = valkey(servers.side.url)
        settings = client.config_get("appendonly", "save", "maxmemory", "maxmemory-policy")
        client.set("kept", "no")
        servers.side.stop()

        assert settings == {
            "appendonly": "no",
            "save": "",
            "maxmemory": str(64 * 1024 * 1024),
            "maxmemory-policy": "allkeys-lru",
        }
        assert {each.name for each in servers.side.directory.iterdir()} <= {"lock", "valkey.log"}
        assert servers.valkey.running
        assert servers.postgres.running


async def test_postgres_is_durable_unless_a_test_asks_otherwise(tmp_path: Path) -> None:
    """A committed order is on the disk."""
    server = PostgresServer(tmp_path)
    server.start()
    try:
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
            assert await query(server.url, f"SHOW {setting}") == "on"
    finally:
        server.stop()


async def test_data_is_found_again_in_the_same_directory(tmp_path: Path) -> None:
    """What one run stored, the next one has."""
    with embedded_servers(tmp_path, durable=False) as first:
        valkey(first.redis_url).set("kept", "yes")
        await query(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")

    with embedded_servers(tmp_path, durable=False) as second:
        assert valkey(second.redis_url).get("kept") == "yes"
        assert await query(second.database_url, "SELECT answer FROM kept") == 42


async def test_servers_come_back_after_a_stop_at_the_same_urls(servers: EmbeddedServers) -> None:
    """A pool that was made before the stop finds the server again."""
    before = (servers.redis_url, servers.database_url)

    servers.valkey.stop()
    servers.postgres.stop()
    servers.valkey.start()
    servers.postgres.start()

    assert (servers.redis_url, servers.database_url) == before
    assert valkey(servers.redis_url).ping()
    assert await query(servers.database_url, "SELECT 1") == 1


def test_a_killed_valkey_comes_back_with_every_acknowledged_write(servers: EmbeddedServers) -> None:
    """`kill` is kill -9; whatever was answered is found again."""
    for number in range(100):
        valkey(servers.redis_url).rpush("acknowledged", number)

    servers.valkey.kill()
    servers.valkey.start()

    assert valkey(servers.redis_url).llen("acknowledged") == 100


async def test_a_killed_postgres_takes_its_busy_backends_along_and_comes_back(servers: EmbeddedServers) -> None:
    """A backend in the middle of a long statement would not notice by itself that its postmaster is gone."""
    await query(servers.database_url, "CREATE TABLE committed AS SELECT 1 AS one")
    busy = asyncio.create_task(query(servers.database_url, "SELECT count(*) FROM generate_series(1, 1000000000)"))
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT count(%generate_series(%' AND state = 'active'"
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        # The question counts itself; and PostgreSQL cannot set an event of ours.
        while await query(servers.database_url, running) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    pids = family(servers.postgres.pid)

    servers.postgres.kill()

    until(lambda: gone(*pids))
    assert isinstance((await asyncio.gather(busy, return_exceptions=True))[0], Exception)
    servers.postgres.start()
    assert await query(servers.database_url, "SELECT one FROM committed") == 1


async def test_servers_killed_by_somebody_else_can_be_started_again(servers: EmbeddedServers) -> None:
    """`start` sees that the process which it knew is gone, and clears up what was left."""
    pids = [servers.valkey.pid, servers.postgres.pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: gone(*pids))

    servers.valkey.start()
    servers.postgres.start()

    assert valkey(servers.redis_url).ping()
    assert await query(servers.database_url, "SELECT 1") == 1


@pytest.mark.parametrize("mechanism", ["kernel", "watcher"])
def test_no_server_survives_the_kill_of_its_parent(mechanism: str, tmp_path: Path) -> None:
    """kill -9 gives the parent no chance to clean up; and its directory is free for the next one."""
    if mechanism == "kernel" and sys.platform != "linux":
        pytest.skip("only Linux sends a death signal")
    command = [sys.executable, "-c", PARENT, str(tmp_path), mechanism]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [pid for server in parent.stdout.readline().split() for pid in family(int(server))]
        assert len(pids) > 2
        parent.kill()
        parent.wait()

        until(lambda: gone(*pids))

    with embedded_servers(tmp_path, durable=False) as servers:
        assert valkey(servers.redis_url).ping()


def test_an_exception_leaves_no_server_and_no_temporary_directory() -> None:
    """The block's end is the servers' end, however it is reached."""
    pids: list[int] = []
    directories: list[Path] = []

    def fail() -> None:
        with embedded_servers(durable=False) as servers:
            pids.extend(family(servers.valkey.pid) + family(servers.postgres.pid))
            directories.append(servers.valkey.directory.parent)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()

    assert gone(*pids)
    assert not directories[0].exists()


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """Linux takes the end of a thread for the end of the parent; the server's parent is the process."""
    server = ValkeyServer(tmp_path)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()

    server.start()  # which leaves a running server alone
    pid = server.pid

    assert valkey(server.url).ping()
    assert server.pid == pid
    server.stop()
    assert gone(pid)


def test_a_directory_in_use_is_refused(servers: EmbeddedServers) -> None:
    """Two servers on one directory would destroy its data; the message names who has it."""
    home = servers.valkey.directory.parent

    for second in (ValkeyServer(home), PostgresServer(home)):
        with pytest.raises(ServerUnavailable, match=f"in use by the servers of process {os.getpid()}"):
            second.start()


async def test_any_directory_will_do(tmp_path: Path) -> None:
    """A socket's path is short and plain, whatever the directory is called; nothing is left of it."""
    with embedded_servers(tmp_path / ("very long, 'quoted' & 100% odd é " * 5), durable=False) as servers:
        sockets = servers.redis_url.removeprefix("unix://")
        assert len(sockets) <= process.SOCKET_PATH_BYTES_MAX
        assert valkey(servers.redis_url).ping()
        assert await query(servers.database_url, "SELECT 1") == 1

    assert not Path(sockets).parent.exists()


@pytest.mark.parametrize("server", [ValkeyServer, PostgresServer])
def test_without_a_program_the_message_says_where_to_get_one(
    server: type[ValkeyServer | PostgresServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new user reads what to do, not a traceback."""
    monkeypatch.setattr(binaries, "valkey_candidates", lambda: iter(()))
    monkeypatch.setattr(binaries, "postgres_candidates", lambda: iter(()))

    with pytest.raises(
        ServerUnavailable, match=r"(?s)there is no program.*pip install 'shop\[embedded\]'.*docker-compose"
    ):
        server(tmp_path).start()


def test_a_program_that_is_too_old_or_broken_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel may not fit this machine's C library, and the scripts of the shop need Redis 7."""
    old, broken = tmp_path / "redis-server", tmp_path / "valkey-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0'\n")
    broken.write_text("#!/no/such/interpreter\n")
    for program in (old, broken):
        program.chmod(0o755)
    usable = binaries.find_valkey()
    monkeypatch.setattr(binaries, "valkey_candidates", lambda: iter([old, broken, usable]))
    assert binaries.find_valkey() == usable

    monkeypatch.setattr(binaries, "valkey_candidates", lambda: iter([old, broken]))
    with pytest.raises(ServerUnavailable, match=r"older than 7.*does not run"):
        binaries.find_valkey()


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    """The reason is in the server's own log; whoever reads the message need not look for it."""
    server = ValkeyServer(tmp_path, extra=("--no-such-option", "1"))

    with pytest.raises(ServerUnavailable, match=r"(?s)ended with status 1.*no-such-option"):
        server.start()


async def test_the_system_s_own_postgres_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheels, a PostgreSQL of the distribution is found."""
    monkeypatch.setattr(binaries, "find_spec", lambda _: None)
    try:
        binaries.find_postgres()
    except ServerUnavailable:
        pytest.skip("there is none on this machine")
    server = PostgresServer(tmp_path, durable=False)
    server.start()
    try:
        assert await query(server.url, "SELECT 1") == 1
    finally:
        server.stop()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux has to give up root")
def test_root_without_user_namespaces_runs_postgres_as_nobody(tmp_path: Path) -> None:
    """Most containers refuse namespaces; and a directory that was used in this way still works in the other."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    command = [sys.executable, "-c", ROOT_WITHOUT_NAMESPACES, str(private)]

    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS)

    assert answer.stdout.split("Uid:")[1].split()[:4] == ["65534"] * 4
    server = PostgresServer(private, durable=False)
    server.start()
    server.stop()
