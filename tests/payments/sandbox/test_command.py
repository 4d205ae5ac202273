"""`shop sandbox-provider` as a process of its own."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from tests.harness import wait_until
from tests.nursery import Child, run, start
from tests.payments.sandbox.running import Sandbox, running_receiver, sandbox_at, settings_of_a_shop

DATA = "books.db"


@asynccontextmanager
async def command(directory: Path, *options: str) -> AsyncIterator[tuple[Sandbox, Child]]:
    """The sandbox as a process that keeps its books in a file, killed at the end if it still runs."""
    child, output, errors = start(directory, "sandbox-provider", "--port=0", f"--data={DATA}", "--json", *options)

    async def address() -> str | None:
        assert child.poll() is None, errors.read_text()
        text = output.read_text()
        return str(json.loads(text)["sandbox"]) if text.endswith("\n") else None

    try:
        async with sandbox_at(await wait_until(address, reason="it listens"), settings_of_a_shop()) as sandbox:
            yield sandbox, child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


async def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    async with command(tmp_path) as (sandbox, child):
        paid = await asyncio.gather(*(sandbox.paid(key=f"key {number}") for number in range(8)))
        await sandbox.refund(paid[0]["id"], 10)
        before = await sandbox.summary(), await sandbox.events()
        child.send_signal(signal.SIGKILL)
        child.wait()

    async with command(tmp_path) as (sandbox, _):
        assert (await sandbox.summary(), await sandbox.events()) == before
        assert (await sandbox.create(key="key 3"))["id"] == paid[3]["id"]
        assert (await sandbox.refund(paid[0]["id"], 10)).status_code == 200


async def test_a_webhook_that_was_not_taken_before_kill_9_is_sent_afterwards(tmp_path: Path) -> None:
    async with command(tmp_path, "--webhook-url=http://127.0.0.1:1/") as (sandbox, child):
        await sandbox.create()
        child.send_signal(signal.SIGKILL)
        child.wait()

    async with running_receiver() as receiver, command(tmp_path, f"--webhook-url={receiver.url}"):
        await receiver.until_told(1)


async def test_it_ends_well_when_it_is_asked_to(tmp_path: Path) -> None:
    async with command(tmp_path) as (sandbox, child):
        assert (await sandbox.client.get("/livez")).status_code == 200
        child.send_signal(signal.SIGTERM)

        assert await asyncio.to_thread(child.wait) == 0


async def test_a_file_has_one_sandbox_at_a_time(tmp_path: Path) -> None:
    async with command(tmp_path):
        said = await asyncio.to_thread(run, tmp_path, "sandbox-provider", "--port=0", f"--data={DATA}")

    assert said.status == 1
    assert said.errors == f"error: the file {DATA} cannot be used: database is locked\n"


async def test_its_faults_are_options(tmp_path: Path) -> None:
    async with command(tmp_path, "--lose=0.2", "--drop-reply=0.1", "--delay=3", "--seed=5") as (sandbox, _):
        behaviour = (await sandbox.client.get("/sandbox/behaviour")).json()

    told = {name: value for name, value in behaviour.items() if value}
    assert told == {"lose_share": 0.2, "drop_reply_share": 0.1, "delay_seconds_max": 3.0, "seed": 5}


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]

        said = run(tmp_path, "sandbox-provider", f"--port={port}")

    assert (said.status, said.output) == (1, "")
    assert said.errors == f"error: the sandbox cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_its_help_has_examples(tmp_path: Path) -> None:
    said = run(tmp_path, "sandbox-provider", "--help")

    assert said.status == 0
    assert "shop sandbox-provider --data sandbox.db" in said.output
