"""The crowd as a command: what it reads, what it writes, and its status."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.crowd.record import read_record
from loadtests.crowd.rush import read_tokens
from tests.loadtests.endpoint import Script, endpoint, in_turn, refusal, reserved, selling, until


def test_a_line_of_the_token_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("user-1 token-1\n\nuser-2\n")

    with pytest.raises(ValueError, match=r"tokens\.txt:3: expected `user_id token`"):
        read_tokens(path)


async def test_the_command_writes_progress_a_record_and_a_summary(tmp_path: Path) -> None:
    async with endpoint(selling(units=2)) as shop:
        process = await start_command(shop.base_url, tmp_path, shoppers=50)
        output, _ = await process.communicate()
        lines = [json.loads(line) for line in output.splitlines()]
        await until(lambda: len(shop.requests) == lines[-1]["summary"]["attempts"])

    assert process.returncode == 0
    assert all(list(line) == ["progress"] for line in lines[:-1])
    assert lines[-1]["summary"]["reserved"] == 2
    assert len(read_record(tmp_path / "record.jsonl").attempts) == lines[-1]["summary"]["attempts"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [(None, "connect_failed"), (in_turn(refusal(401, "unauthorized")), "unauthorized"), (in_turn(None), "lost")],
    ids=["down", "refused", "without an answer"],
)
async def test_a_rush_in_which_nobody_gets_an_answer_ends_with_status_1_and_says_why(
    script: Script | None, reason: str, tmp_path: Path
) -> None:
    """Who waits for it in a script must not take it for a sale."""
    async with endpoint(script or in_turn(None)) as shop:
        base_url = shop.base_url if script else "http://127.0.0.1:1"
        process = await start_command(base_url, tmp_path, "--timeout", "0.3", shoppers=3)
        output, errors = await process.communicate()

    assert process.returncode == 1
    assert json.loads(output.splitlines()[-1])["summary"]["errors"] == 3
    assert errors.startswith(b"error: no shopper got a proper answer")
    assert (errors.count(b"\n"), reason.encode() in errors) == (1, True), errors


async def test_an_interrupt_ends_the_command_with_what_it_has(tmp_path: Path) -> None:
    async with endpoint(in_turn(reserved(), refusal(503, "sale_paused", retry_after=60))) as shop:
        process = await start_command(shop.base_url, tmp_path, shoppers=2)
        await until(lambda: len(shop.requests) == 2)
        process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()

    summary = json.loads(output.splitlines()[-1])["summary"]
    assert process.returncode == 0
    assert (summary["complete"], summary["reserved"], summary["errors"]) == (False, 1, 1)
    assert len(read_record(tmp_path / "record.jsonl").attempts) == 2


async def start_command(base_url: str, directory: Path, *words: str, shoppers: int) -> asyncio.subprocess.Process:
    tokens = directory / "tokens.txt"
    tokens.write_text("".join(f"user-{number} token-{number}\n" for number in range(shoppers)))
    command = [
        sys.executable,
        "-m",
        "loadtests.crowd.rush",
        "--base-url",
        base_url,
        "--sale",
        "7",
        "--tokens",
        str(tokens),
    ]
    return await asyncio.create_subprocess_exec(
        *command,
        *("--record", str(directory / "record.jsonl"), *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ},
    )
