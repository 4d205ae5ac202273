"""The pool that keeps the processes of the API, with processes that do what a test needs."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from shop.processes import INTERRUPTED, START_FAILED
from tests.harness import wait_until
from tests.nursery import alive, family
from tests.source_tree import ROOT

STOP_SECONDS_MAX = 0.5


class Start(Protocol):
    """Starts a pool that does this work in the test's directory."""

    def __call__(self, work: str, *, stop_seconds_max: float = STOP_SECONDS_MAX) -> "subprocess.Popen[bytes]": ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Whatever is left of the pools ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(work: str, *, stop_seconds_max: float = STOP_SECONDS_MAX) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-m",
            "tests.server.processes.small_pool",
            work,
            str(tmp_path),
            str(stop_seconds_max),
        ]
        own = {**os.environ, "TMPDIR": temporary}
        started.append(subprocess.Popen(command, cwd=ROOT, env=own, start_new_session=True))
        return started[-1]

    # A pool that is killed leaves a socket behind, whose path must be short.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        yield start
        for pool in started:
            for process in family(pool.pid):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            pool.wait()


def serving(directory: Path) -> set[int]:
    """The processes that have served and still live."""
    return {int(file.name) for file in directory.iterdir() if file.name.isdigit() and alive(family(int(file.name)))}


async def until_two_serve(directory: Path, *, without: frozenset[int] = frozenset()) -> frozenset[int]:
    async def two() -> frozenset[int]:
        found = frozenset(serving(directory) - without)
        return found if len(found) == 2 else frozenset()

    found: frozenset[int] = await wait_until(two, reason="two processes serve")
    return found


async def status_of(pool: "subprocess.Popen[bytes]") -> int:
    async def ended() -> bool:
        return pool.poll() is not None

    await wait_until(ended, reason="the pool has ended")
    return pool.returncode


async def test_a_pool_whose_process_cannot_start_ends_and_says_so(start: Start, tmp_path: Path) -> None:
    """The processes that could start are ended as well."""
    assert await status_of(start("fail")) == START_FAILED
    assert serving(tmp_path) == set()


async def test_a_renewal_that_fails_leaves_the_processes_that_serve(start: Start, tmp_path: Path) -> None:
    pool = start("fail_later")
    before = await until_two_serve(tmp_path)

    await renewal_begins(pool, tmp_path)
    await wait_until(lambda: has_only(pool, before), reason="the successor has ended")

    assert serving(tmp_path) == before


async def renewal_begins(pool: "subprocess.Popen[bytes]", directory: Path) -> None:
    """Ask for a renewal that cannot succeed, and wait until it has begun."""
    (directory / "broken").touch()
    pool.send_signal(signal.SIGHUP)
    await wait_until(lambda: exists(directory / "tried"), reason="a successor is tried")


async def exists(file: Path) -> bool:
    return file.exists()  # noqa: ASYNC240 - on a local disk


async def has_only(pool: "subprocess.Popen[bytes]", processes: Collection[int]) -> bool:
    """Whether these are the only processes of the pool."""
    [forked_from] = [process for process in psutil.Process(pool.pid).children() if process.children()]
    return {process.pid for process in alive(forked_from.children())} == set(processes)


async def test_a_process_that_leaves_has_a_successor_before_it_has_ended(start: Start, tmp_path: Path) -> None:
    start("leave_slowly")
    leaving, stays = await until_two_serve(tmp_path)

    os.kill(leaving, signal.SIGTERM)

    async def three() -> bool:
        return len(serving(tmp_path)) == 3

    await wait_until(three, reason="the successor serves")
    assert serving(tmp_path) > {leaving, stays}


async def test_a_process_that_is_stuck_is_killed_and_replaced(start: Start, tmp_path: Path) -> None:
    start("get_stuck")
    before = await until_two_serve(tmp_path)

    async def one_is_new() -> bool:
        now = serving(tmp_path)
        return len(now) == 2 and len(now - before) == 1

    await wait_until(one_is_new, reason="the one that is stuck is replaced, and the other is not")


async def test_a_stop_ends_with_status_0_and_in_time_whatever_the_processes_do(start: Start, tmp_path: Path) -> None:
    pool = start("never_end")
    await until_two_serve(tmp_path)

    pool.send_signal(signal.SIGTERM)

    assert await status_of(pool) == 0
    assert serving(tmp_path) == set()


async def test_a_stop_that_every_process_is_told_of_is_a_stop_like_any_other(start: Start, tmp_path: Path) -> None:
    """Service managers signal all of them, and a terminal does; the server that they are forked from is then gone."""
    pool = start("serve")
    await until_two_serve(tmp_path)

    os.killpg(pool.pid, signal.SIGTERM)

    assert await status_of(pool) == 0
    assert serving(tmp_path) == set()


async def test_a_second_ctrl_c_ends_a_pool_at_once(start: Start, tmp_path: Path) -> None:
    pool = start("never_end", stop_seconds_max=60.0)
    await until_two_serve(tmp_path)

    pool.send_signal(signal.SIGINT)
    await wait_until(lambda: exists(tmp_path / "stopping"), reason="it has begun to stop")
    pool.send_signal(signal.SIGINT)

    assert await status_of(pool) == INTERRUPTED
    assert serving(tmp_path) == set()


async def test_processes_that_have_lost_their_parent_end(start: Start, tmp_path: Path) -> None:
    """Also when it was killed and could not say a word; the server that they were forked from ends with them."""
    pool = start("serve")
    await until_two_serve(tmp_path)
    children = psutil.Process(pool.pid).children(recursive=True)

    pool.kill()

    await wait_until(lambda: none_is_left(children), reason="every process has ended")


async def none_is_left(processes: list[psutil.Process]) -> bool:
    return not alive(processes)


async def test_a_renewal_does_not_keep_a_stop_waiting(start: Start, tmp_path: Path) -> None:
    pool = start("hang_later")
    await until_two_serve(tmp_path)

    await renewal_begins(pool, tmp_path)
    pool.send_signal(signal.SIGTERM)

    assert await status_of(pool) == 0
    assert serving(tmp_path) == set()
