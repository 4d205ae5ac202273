"""`python -m tests.api.fuzz`: made-up requests against a whole shop of its own, judged by its OpenAPI document."""

import asyncio
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from shop.embedded import embedded_servers
from shop.migrating import migrate
from tests.api.fuzz.known import CONFIG, FUZZER, known_in
from tests.conftest import settings_of
from tests.harness import LOGINS
from tests.processes import copy_of, own_shop


def main(
    minutes: Annotated[float, typer.Option(help="How long, at most.", min=0.1)] = 10.0,
    seed: Annotated[int | None, typer.Option(help="The same requests as a run with this seed.")] = None,
) -> None:
    """Send what the document allows and what it does not; exit with 1 when an answer is not one that it announces."""
    seed = random.randrange(2**31) if seed is None else seed  # noqa: S311 - no secret
    sys.stdout.write(f"seed {seed}\n")
    sys.exit(asyncio.run(_fuzz(minutes, seed)))


async def _fuzz(minutes: float, seed: int) -> int:
    with (
        tempfile.TemporaryDirectory(prefix="shop-") as directory,
        embedded_servers(durable=False, redis_users=LOGINS.lines) as servers,
    ):
        settings = copy_of(
            settings_of(servers, database="fuzzed", redis_number=0),
            sign_in_per_minute_per_address=1_000_000,
            sign_in_per_minute_per_account=1_000_000,
            sse_seconds_max=0.05,  # an event stream is answered when it ends
        )
        await asyncio.to_thread(migrate, settings)
        async with own_shop(settings, Path(directory), worker_here=True) as own:
            environment = {
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.api.fuzz.hooks",
                "FUZZ_KNOWN": json.dumps(await known_in(own.shop)),
            }
            token = own.shop.headers(FUZZER, role="admin")["Authorization"]
            run = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG),
                "run", f"{own.shop.base_url}/openapi.json",
                "--header", f"Authorization: {token}",
                "--max-time", str(round(minutes * 60)), "--seed", str(seed),
                env=environment,
            )  # fmt: skip
            return await run.wait()


if __name__ == "__main__":
    typer.run(main)
