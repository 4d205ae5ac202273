"""The settings of a shop that is measured or tortured."""

import base64
import secrets

from pydantic import SecretStr

from shop.embedded import EmbeddedServers
from shop.listening_sockets import free_port
from shop.settings import Settings

HOST = "127.0.0.1"


def production_settings(servers: EmbeddedServers) -> Settings:
    """What a shop in production has by default, on these servers."""
    return Settings(
        _env_file=None,
        environment="production",
        secret_key=SecretStr(secrets.token_urlsafe(32)),
        payment_api_key=SecretStr(secrets.token_urlsafe(32)),
        payment_webhook_secret=SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()),
        database_url=servers.database_url,
        redis_url=servers.redis_url,
        redis_patched=True,  # whatever Redis is on this machine is measured
        cache_redis_url=servers.side_url,
        api_host=HOST,
        api_port=free_port(HOST, 0),
        api_processes=1,
        metrics_host=HOST,
        metrics_port=free_port(HOST, 0),
        worker_metrics_port=0,
        log_level="warning",
    )
