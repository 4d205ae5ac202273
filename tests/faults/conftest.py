"""What the tests of faults share: a PostgreSQL of their own to break."""

import itertools
from collections.abc import Iterator

import pytest

from shop.embedded import PostgresServer
from shop.migrating import migrate
from shop.settings import Settings
from tests.harness import create_database
from tests.processes import copy_of, own_postgres

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def postgres(tmp_path_factory: pytest.TempPathFactory, live_settings: Settings) -> Iterator[PostgresServer]:
    """A PostgreSQL of these tests' own, with a migrated database to copy. Whoever ends it starts it again."""
    with own_postgres(tmp_path_factory.mktemp("postgres")) as server:
        migrate(copy_of(live_settings, database_url=create_database(server.url, "migrated")))
        yield server


@pytest.fixture
def breakable(postgres: PostgresServer, live_settings: Settings) -> Settings:
    """The settings of an empty shop on it."""
    url = create_database(postgres.url, f"shop_{next(_numbers)}", template="migrated")
    return copy_of(live_settings, database_url=url)
