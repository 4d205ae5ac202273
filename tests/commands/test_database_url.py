"""The URL of Postgres as hosting providers write it: what libpq understands works, and what nobody does is named."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from shop.connection_pool import DEADLINE
from shop.database import Database
from shop.migrating import migrate
from shop.settings import Settings
from shop.settings.database_url import database_address
from tests.processes import copy_of

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


async def said(settings: Settings, *names: str) -> list[str]:
    """What a connection made with these settings says of these parameters of its session."""
    database = Database(settings, application_name="shop-tests")
    try:
        async with database.transaction() as session:
            return [(await session.execute(text(f"SHOW {name}"))).scalar_one() for name in names]
    finally:
        await database.close()


def with_more(settings: Settings, scheme: str = "postgres", **query: str) -> Settings:
    """The same server, by another scheme and with more parameters."""
    url = settings.database_url.replace("postgresql+asyncpg", scheme)
    return copy_of(settings, database_url=url + "".join(f"&{name}={quote(value)}" for name, value in query.items()))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_the_parameters_of_libpq_work(clean_settings: Settings, scheme: str) -> None:
    """On a socket `sslmode` means nothing, as in libpq; the shop's own limits come before those of the URL."""
    settings = with_more(
        clean_settings,
        scheme,
        sslmode="require",
        connect_timeout="7",
        application_name="mine",
        options="-c lock_timeout=1234 -c statement_timeout=1",
        target_session_attrs="read-write",
        channel_binding="prefer",
        keepalives="1",
        gssencmode="prefer",
    )

    told = await said(settings, "application_name", "lock_timeout", "statement_timeout")

    assert told == ["shop-tests mine", "1234ms", "5s"]


def test_the_migrations_take_the_same_url(clean_settings: Settings) -> None:
    """Alembic has an engine of its own, which knows nothing of what a pool was asked for in the same task."""
    settings = with_more(clean_settings, sslmode="require", connect_timeout="70", options="-c lock_timeout=1234")
    before = DEADLINE.set(time.monotonic() - 1.0)
    try:
        migrate(settings)
    finally:
        DEADLINE.reset(before)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgres://shop:secret@db/shop?sslmod=require", "'sslmod'"),
        ("postgres://shop:secret@db/shop?pgbouncer=true", "'pgbouncer'"),
        ("postgres://shop:secret@db/shop?sslmode=always", "sslmode"),
        ("postgres://shop:secret@db/shop?connect_timeout=soon", "connect_timeout"),
        ("postgres://shop:secret@db/shop?target_session_attrs=master", "target_session_attrs"),
        ("postgres://shop:secret@db/shop?sslrootcert=/no/such/file", "sslrootcert"),
        ("postgres://shop:secret@db/shop?gssencmode=require", "gssencmode"),
        ("postgres://shop:secret@db/shop?client_encoding=latin1", "client_encoding"),
        ("postgres://shop:secret@db:port/shop", "ports"),
        ("postgres://shop:secret@two@db/shop", "%40"),
        ("postgres://shop:secret#@db/shop", "%23"),
        ("mysql://shop:secret@db/shop", "postgresql://"),
        ("", "postgresql://"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line_without_the_password(
    clean_settings: Settings, url: str, words: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        copy_of(clean_settings, database_url=url)

    [error] = refused.value.errors()
    assert error["loc"] == ("database_url",)
    assert words in error["msg"]
    assert "\n" not in error["msg"]
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "netloc", "host"),
    [
        ("postgres://u:p%40%23%2F%3A@[::1]:6432/shop", "u:p%40%23%2F%3A@[::1]:6432", None),
        ("postgres://u@%2Frun%2Fpostgres/shop", "u@%2Frun%2Fpostgres", None),
        ("postgres://u@/shop?host=a:1&host=b:2", "u@", ["a:1,b:2"]),
    ],
)
def test_passwords_addresses_and_sockets_reach_the_driver_as_they_are_written(
    url: str, netloc: str, host: list[str] | None
) -> None:
    parts = urlsplit(database_address(url).arguments["dsn"])

    assert parts.netloc == netloc
    assert parse_qs(parts.query).get("host") == host


def test_of_several_hosts_the_one_that_can_be_written_to_is_meant() -> None:
    several = database_address("postgres://u@a,b:5433/shop").arguments["dsn"]
    named = database_address("postgres://u@a,b/shop?target_session_attrs=any").arguments["dsn"]
    one = database_address("postgres://u@a/shop").arguments["dsn"]

    assert "target_session_attrs=read-write" in several
    assert "target_session_attrs=any" in named
    assert "target_session_attrs" not in one


@asynccontextmanager
async def behind_tls(settings: Settings, directory: Path) -> AsyncIterator[tuple[int, Path]]:
    """The server of these settings on a TCP port that speaks TLS and nothing else; its port and its certificate."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    process = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
        "-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    [socket] = parse_qs(urlsplit(settings.database_url).query)["host"]

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(8) != SSL_REQUEST:
            writer.close()
            return
        writer.write(b"S")
        await writer.start_tls(context)
        behind, before = await asyncio.open_unix_connection(f"{socket}/.s.PGSQL.5432")
        await asyncio.gather(copy(reader, before), copy(behind, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "localhost", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], certificate


async def test_sslmode_speaks_tls_and_verifies_what_it_says(clean_settings: Settings, tmp_path: Path) -> None:
    """A server without the certificate that is asked for gets nothing, and no wait for ever."""
    name = urlsplit(clean_settings.database_url).path
    async with behind_tls(clean_settings, tmp_path) as (port, certificate):
        url = f"postgres://shop@localhost:{port}{name}"
        for query in ("sslmode=require", f"sslmode=verify-full&sslrootcert={certificate}"):
            assert await said(copy_of(clean_settings, database_url=f"{url}?{query}"), "timezone") == ["UTC"]
        for query in ("sslmode=verify-full&sslrootcert=system", "sslmode=disable"):
            with pytest.raises(OSError, match=r".+"):
                await said(copy_of(clean_settings, database_url=f"{url}?{query}"), "timezone")
