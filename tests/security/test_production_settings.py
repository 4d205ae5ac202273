"""Production starts with nothing that is for development or for tests."""

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from shop.settings import NOT_FOR_PRODUCTION, Settings

SAFE: dict[str, Any] = {
    "_env_file": None,
    "environment": "production",
    "secret_key": "x" * 32,
    "payment_api_key": "a-key",
    "payment_provider_url": "https://provider.example",
    "payment_webhook_secret": "whsec_" + base64.b64encode(b"x" * 32).decode(),
}
OTHER_VALUES: dict[type, Any] = {bool: True, int: 1, float: 1.0}


def not_for_production() -> list[str]:
    return [
        name
        for name, field in Settings.model_fields.items()
        if any(words.lower() in (field.description or "").lower() for words in NOT_FOR_PRODUCTION)
    ]


def test_production_starts_with_what_it_asks_for() -> None:
    assert Settings(**SAFE).environment == "production"


@pytest.mark.parametrize("url", ["http://provider.example", "http://10.0.0.7:8900", "http://127.0.0.1.example"])
def test_production_does_not_send_the_providers_key_in_clear(url: str) -> None:
    with pytest.raises(ValidationError, match="SHOP_PAYMENT_PROVIDER_URL"):
        Settings(**{**SAFE, "payment_provider_url": url})


@pytest.mark.parametrize("url", ["http://127.0.0.1:8900", "http://[::1]:8900", "http://localhost/v1"])
def test_a_provider_on_this_machine_may_be_asked_without_tls(url: str) -> None:
    """Such as a proxy beside the shop that speaks TLS for it."""
    assert Settings(**{**SAFE, "payment_provider_url": url}).payment_provider_url == url


def test_a_setting_that_is_not_for_production_says_so_first() -> None:
    """Else production would not know it by its description."""
    descriptions = [Settings.model_fields[name].description or "" for name in not_for_production()]

    assert len(descriptions) >= 3
    assert [text for text in descriptions if not text.startswith(NOT_FOR_PRODUCTION)] == []


@pytest.mark.parametrize("name", not_for_production())
def test_production_refuses_every_setting_that_is_not_for_it(name: str) -> None:
    value = OTHER_VALUES.get(type(Settings.model_fields[name].default), "something")

    with pytest.raises(ValidationError, match=f"SHOP_{name.upper()}"):
        Settings(**SAFE, **{name: value})
