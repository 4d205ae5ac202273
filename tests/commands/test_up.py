"""`shop up`: its directory is its own, its ports are said, its data is found again, and what ends of it is named."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from shop.embedded.process import locked
from shop.listening_sockets import listen, port_of
from shop.local import NotStarted
from shop.local.ports import listen_as_before, listen_somewhere
from shop.local.starting import secret_of
from tests.harness import wait_until
from tests.nursery import ANY_PORT, Child, alive, environment, family, run, start
from tests.source_tree import ROOT

UP_SECONDS = 90.0


async def up(directory: Path, *words: str, **variables: str) -> tuple[Child, list[psutil.Process], str, Path]:
    """Start it; returns it, its processes, what it printed when it was up, and where its errors go."""
    child, output, errors = start(directory, "up", *words, **{**ANY_PORT, **variables})

    async def printed() -> bool:
        assert child.poll() is None, errors.read_text()
        return output.read_text().startswith('{"api"') if "--json" in words else "Ctrl-C" in output.read_text()

    await wait_until(printed, within=UP_SECONDS, reason="the shop is up")
    return child, family(child.pid), output.read_text(), errors


def environment_in(directory: Path) -> dict[str, str]:
    """What `. .shop/environment` sets in the shell of somebody who works there."""
    lines = (directory / ".shop" / "environment").read_text().splitlines()
    named = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    return {name: value.strip("'") for name, value in named.items() if name != "PATH"}


def purchase_of_the_readme(directory: Path) -> "subprocess.CompletedProcess[str]":
    """What the README tells a newcomer to do, word for word, in a shell of their own, whose PATH knows no `shop`."""
    text = (ROOT / "README.md").read_text()
    lines = text.split("<!-- purchase -->\n```sh\n")[1].split("```\n<!-- /purchase -->")[0]
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],  # noqa: S607
        cwd=directory, env=environment(PATH=os.defpath), capture_output=True, text=True, timeout=3 * UP_SECONDS,
        check=False,
    )  # fmt: skip


async def gone(processes: list[psutil.Process]) -> None:
    async def none_left() -> bool:
        return not alive(processes)

    await wait_until(none_left, within=UP_SECONDS, reason="every process has ended")


@pytest.mark.timeout(600)  # It starts a whole shop three times.
async def test_a_shop_that_is_up_finds_its_data_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C stops everything in order, what is killed takes everything along; data, secret and ports stay."""
    first, processes, printed, _ = await up(tmp_path, "--json")
    ports, named = json.loads(printed), environment_in(tmp_path)
    assert len(processes) >= 6
    assert named["SHOP_CACHE_REDIS_URL"].endswith("/valkey.sock")
    assert named["SHOP_CACHE_REDIS_URL"] != named["SHOP_REDIS_URL"]
    assert listening(processes) == {httpx.URL(ports[name]).port for name in ("api", "metrics", "provider")}
    bought = await asyncio.to_thread(purchase_of_the_readme, tmp_path)
    assert (bought.returncode, '"status":"paid"' in bought.stdout.replace(" ", "")) == (0, True), bought
    for words in (("reset", "--yes"), ("up",)):
        in_use = await asyncio.to_thread(run, tmp_path, *words, **ANY_PORT)
        assert (in_use.status, in_use.errors.count("\n"), "in use" in in_use.errors) == (1, 1, True), in_use
    first.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(first.wait) == 0
    await gone(processes)

    # In the shell of somebody who has read the environment, and with a secret that a crash has cut short.
    down = await asyncio.to_thread(run, tmp_path, "sale", "audit", "1", **named)
    assert (down.status, down.errors.count("\n"), "`shop up` starts it" in down.errors) == (1, 1, True), down
    (tmp_path / ".shop" / "secret").write_text("")
    second, processes, printed, errors = await up(tmp_path, COLUMNS="80", **{**named, "SHOP_API_HOST": "::1"})
    again = dict(line.split(maxsplit=1) for line in printed.split("\n\n")[0].splitlines())
    assert again["api"].startswith("http://[::1]:")
    assert again["provider"] == ports["provider"]
    assert again["environment"] == str(tmp_path / ".shop" / "environment")
    assert "…" not in printed
    assert re.search(r"redis +unix://[\w-]+:\*\*\*@/", printed)
    async with httpx.AsyncClient(base_url=again["api"]) as client:
        listed = (await client.get("/v1/products")).json()["data"]
    assert [product["name"] for product in listed] == ["Golden Ticket"]
    worker = next(each for each in processes if each.cmdline()[-1:] == ["worker"])
    worker.kill()
    status = await asyncio.to_thread(second.wait)
    assert (status, "error: worker ended with status -9" in errors.read_text()) == (1, True)
    await gone(processes)

    third, processes, _, _ = await up(tmp_path, "--json")
    third.send_signal(signal.SIGKILL)
    await gone(processes)
    assert (await asyncio.to_thread(run, tmp_path, "reset", "--yes", "--json")).value["deleted"]


def listening(processes: list[psutil.Process]) -> set[int]:
    """The TCP ports that any of them listens on."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            connections = process.net_connections(kind="inet")
            found |= {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
    return found


def test_a_directory_is_locked_whatever_servers_its_shop_uses(tmp_path: Path) -> None:
    """One that uses servers of its own has the lock as well, and is asked for it before any server is."""
    own = {"SHOP_DATABASE_URL": "postgresql://localhost:1/shop", "SHOP_REDIS_URL": "redis://localhost:1/0"}

    with locked(tmp_path / ".shop"):
        refused = [run(tmp_path, *words, **own) for words in (("up",), ("reset", "--yes"))]

    assert [(said.status, said.errors.count("\n"), "in use" in said.errors) for said in refused] == [(1, 1, True)] * 2
    assert run(tmp_path, "reset", "--yes").status == 0


def test_a_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".shop").write_text("a file")

    said = run(tmp_path, "up", **ANY_PORT)

    assert (said.status, said.errors.count("\n"), ".shop" in said.errors) == (1, 1, True), said


@pytest.mark.parametrize("found", [b"", b"short", b"\xff" * 64, b"\n" * 64])
def test_what_is_no_secret_is_replaced_and_said(found: bytes, tmp_path: Path) -> None:
    """A start that was cut short must not be the last one, nor one whose tokens anybody can sign."""
    notices: list[str] = []
    (tmp_path / "secret").write_bytes(found)

    made = secret_of(tmp_path, notices.append)

    assert (len(made) >= 32, len(notices), secret_of(tmp_path, notices.append)) == (True, 1, made)


def test_the_providers_port_stays_what_it_was_or_the_shop_does_not_start(tmp_path: Path) -> None:
    """Orders that wait for a payment name it; another process at that port is no payment provider."""
    notices: list[str] = []
    file = tmp_path / "provider.port"
    for first in listen_as_before(file, notices.append):
        with first, pytest.raises(NotStarted, match=f"127.0.0.1:{port_of(first)} again"):
            listen_as_before(file, notices.append)
    for again in listen_as_before(file, notices.append):
        with again:
            assert port_of(again) == port_of(again) == int(file.read_text())


def test_two_shops_never_share_a_port(tmp_path: Path) -> None:
    """However many sockets either has: SO_REUSEPORT would let them, and the kernel would mix their buyers."""
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        port = elsewhere.getsockname()[1]
    for mine, other in ((1, 1), (1, 3), (3, 1), (3, 3)):
        listeners = listen("127.0.0.1", port, processes=mine)
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", port, processes=other)
        for listener in listeners:
            listener.close()


async def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    """The shop starts at another one, and its line says which."""
    said: list[str] = []
    with listen("127.0.0.1", 0)[0] as taken:
        (elsewhere,) = listen_somewhere("API", "127.0.0.1", port_of(taken), said.append)
        with elsewhere:
            assert said == [f"port {port_of(taken)} is taken: the API listens on {port_of(elsewhere)}"]
