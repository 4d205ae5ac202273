"""The URL of Redis as hosting providers write it: what it says is done, and what nobody understands is named."""

import pytest
from pydantic import ValidationError

from shop.redis import connect
from shop.settings import Settings
from tests.processes import copy_of


async def test_a_socket_and_its_parameters_work(clean_settings: Settings) -> None:
    settings = copy_of(clean_settings, redis_url=clean_settings.redis_url + "&client_name=mine")
    client = connect(settings.redis_url, settings)

    assert await client.client_getname() == "mine"
    await client.aclose(close_connection_pool=True)


@pytest.mark.parametrize(
    ("url", "known_as"),
    [
        ("rediss://u:p%40@db:6380/0?ssl_cert_reqs=CERT_NONE", "rediss://u:p%40@db:6380/0?ssl_cert_reqs=none"),
        ("rediss://db?ssl_cert_reqs=required", "rediss://db?ssl_cert_reqs=required"),
        ("valkeys://u:p@db:6380", "rediss://u:p@db:6380"),
        ("redis://:p@[::1]:6379/3", "redis://:p@[::1]:6379/3"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
    ],
)
def test_the_client_gets_its_own_spelling(clean_settings: Settings, url: str, known_as: str) -> None:
    settings = copy_of(clean_settings, redis_url=url, cache_redis_url=url)

    assert (settings.redis_url, settings.cache_redis_url) == (known_as, known_as)
    assert connect(settings.redis_url, settings).connection_pool.connection_kwargs


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("rediss://:secret@db?ssl_cert_req=none", "'ssl_cert_req'"),
        ("redis://:secret@db?socket_timeout=9", "'socket_timeout'"),
        ("redis://:secret@db?retry_on_timeout=1", "'retry_on_timeout'"),
        ("redis://:secret@db?ssl_cert_reqs=none", "rediss://"),
        ("rediss://:secret@db?ssl_cert_reqs=never", "ssl_cert_reqs"),
        ("rediss://:secret@db?ssl_ca_certs=/no/such/file", "ssl_ca_certs"),
        ("redis://:secret@db/shop", "'shop'"),
        ("redis://:secret@db?db=one", "db="),
        ("redis://:secret@db:port", "port"),
        ("redis://:secret#@db", "%23"),
        ("unix://", "socket"),
        ("http://:secret@db", "redis://"),
        ("db:6379", "redis://"),
    ],
)
@pytest.mark.parametrize("name", ["redis_url", "cache_redis_url"])
def test_what_cannot_be_used_is_named_in_one_line_without_the_password(
    clean_settings: Settings, name: str, url: str, words: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        copy_of(clean_settings, **{name: url})

    [error] = refused.value.errors()
    assert error["loc"] == (name,)
    assert words in error["msg"]
    assert "\n" not in error["msg"]
    assert "secret" not in str(refused.value)
