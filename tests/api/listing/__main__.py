"""Five million rows of everything that admins list, and how long a page takes for each filter and each two together.

It ends with 1 if a page took longer than a named time.
"""

import argparse
import asyncio
import statistics
import sys
import time

from shop.database import Database
from shop.embedded import embedded_servers
from shop.migrating import migrate
from shop.settings import Settings
from tests.api.listing.filters import LISTS, Listed
from tests.api.listing.rows import STATEMENTS, fill, vacuum
from tests.harness import create_database

ROWS = 5_000_000
TRIES = 3
FILLING_SECONDS_MAX = 3_600
PAGE_MS_MAX = 500.0


def main() -> None:
    """Fill a database of its own, ask every question, and print the slowest ones of each list."""
    parser = argparse.ArgumentParser(prog="make lists", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"orders, payments, accounts, events (default: {ROWS})")
    parser.add_argument("--slowest", type=int, default=10, help="lines for each list (default: 10)")
    arguments = parser.parse_args()
    with embedded_servers(durable=False) as servers:
        settings = Settings(
            _env_file=None,
            environment="development",
            database_url=create_database(servers.database_url, "lists"),
            redis_url=servers.redis_url,
        )
        migrate(settings)
        sys.exit(asyncio.run(measure(settings, arguments.rows, arguments.slowest)))


async def measure(settings: Settings, rows: int, slowest: int) -> int:
    """The exit status."""
    database = Database(settings, application_name="shop-tests", statement_seconds=FILLING_SECONDS_MAX)
    started = time.perf_counter()
    async with database.transaction() as session:
        await fill(session, rows, lambda step: _tell(f"{time.perf_counter() - started:7,.0f} s  {step}"))
    await vacuum(database)
    filled = f"{rows:,} rows of each, made by {len(STATEMENTS)} statements in {time.perf_counter() - started:,.0f} s\n"
    sys.stdout.write(filled)
    took = {listed.name: [(await ask(database, listed, each), each) for each in listed.questions()] for listed in LISTS}
    await database.close()
    for name, pages in took.items():
        pages.sort(key=lambda page: page[0], reverse=True)
        median = statistics.median(milliseconds for milliseconds, _ in pages)
        sys.stdout.write(f"\n{name}: {len(pages)} questions, median {median:.1f} ms, the slowest\n")
        for milliseconds, question in pages[:slowest]:
            asked = " ".join(f"{filter_name}={value}" for filter_name, value in question.items())
            sys.stdout.write(f"{milliseconds:10.1f} ms  {asked}\n")
    return int(max(pages[0][0] for pages in took.values()) > PAGE_MS_MAX)


def _tell(step: str) -> None:
    sys.stderr.write(f"{step}\n")


async def ask(database: Database, listed: Listed, question: dict[str, object]) -> float:
    """The milliseconds of a page, the median of a few."""
    tries = []
    for _ in range(TRIES):
        async with database.transaction() as session:
            started = time.perf_counter()
            await listed.page(session, listed.asked.model_validate(question))
            tries.append((time.perf_counter() - started) * 1_000)
    return statistics.median(tries)


main()
