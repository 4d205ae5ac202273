"""Webhooks: signed by the provider a moment ago, or refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook

from shop.errors import WebhookInvalid, WebhookUnsigned
from shop.payments.webhook_signature import parse_webhook
from shop.settings import Settings
from tests.payments.raw import EVENT
from tests.payments.sandbox.running import settings_of_a_shop

OLD = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZA=="
NEW = "whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldw=="
FOREIGN = "whsec_Zm9yZWlnbi1mb3JlaWduLWZvcmVpZ24tZm9yZWlnbg=="
BODY = msgspec.json.encode(EVENT)


@pytest.fixture
def settings() -> Settings:
    """Those of a shop that knows one secret."""
    return settings_of_a_shop(payment_webhook_secret=NEW)


def signed(body: bytes = BODY, *, secret: str = NEW, age_seconds: float = 0.0) -> dict[str, str]:
    """The headers of a webhook with this body."""
    at = datetime.now(UTC) - timedelta(seconds=age_seconds)
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("evt_1", at, body.decode("utf-8", "surrogateescape")),
    }


def test_a_webhook_that_is_signed_well_is_an_event(settings: Settings) -> None:
    event = parse_webhook(settings, signed(), BODY)

    assert (event.id, event.seq, event.type, event.data.id) == ("evt_1", 1, "payment.created", "pi_1")


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_while_the_secret_is_changed_both_are_good(secret: str) -> None:
    settings = settings_of_a_shop(payment_webhook_secret=f"{NEW} {OLD}")

    assert parse_webhook(settings, signed(secret=secret), BODY).id == "evt_1"


def test_one_good_signature_of_several_is_enough(settings: Settings) -> None:
    headers = signed()
    headers["webhook-signature"] = f"v1,AAAA v2,whatever {headers['webhook-signature']}"

    assert parse_webhook(settings, headers, BODY).id == "evt_1"


@pytest.mark.parametrize("secret", [OLD, FOREIGN])
def test_a_secret_that_is_not_ours_is_refused(secret: str, settings: Settings) -> None:
    with pytest.raises(WebhookUnsigned):
        parse_webhook(settings, signed(secret=secret), BODY)


@pytest.mark.parametrize("age_seconds", [301, -301])
def test_a_webhook_from_another_time_is_refused(age_seconds: float, settings: Settings) -> None:
    with pytest.raises(WebhookUnsigned):
        parse_webhook(settings, signed(age_seconds=age_seconds), BODY)


@pytest.mark.parametrize("age_seconds", [290, -290])
def test_clocks_may_differ_by_a_little(age_seconds: float, settings: Settings) -> None:
    assert parse_webhook(settings, signed(age_seconds=age_seconds), BODY).id == "evt_1"


def test_a_body_that_was_changed_is_refused(settings: Settings) -> None:
    with pytest.raises(WebhookUnsigned):
        parse_webhook(settings, signed(), BODY.replace(b"990", b"991"))


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "x",
        ",",
        "v1",
        "v1,",
        "v1,=",
        "v1,a,b",
        "nan",
        "inf",
        "-1",
        "1e400",
        "9" * 4_000,
        "v1,AAAA " * 400,
        "ü",
    ],
)
def test_a_header_that_is_missing_or_mad_is_refused(name: str, sent: str | None, settings: Settings) -> None:
    headers = {each: value for each, value in signed().items() if each != name}
    if sent is not None:
        headers[name] = sent

    with pytest.raises(WebhookUnsigned):
        parse_webhook(settings, headers, BODY)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"", b"{}"])
def test_a_body_without_a_good_signature_is_refused_whatever_it_is(body: bytes, settings: Settings) -> None:
    with pytest.raises(WebhookUnsigned):
        parse_webhook(settings, signed(secret=FOREIGN, body=BODY), body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no",
        b"[]",
        b'{"more": ' + b"[" * 50_000,
        msgspec.json.encode({**EVENT, "id": "x" * 129}),
        msgspec.json.encode({**EVENT, "type": ""}),
        msgspec.json.encode({**EVENT, "data": {}}),
    ],
    ids=["nothing", "no JSON", "a list", "too deep", "a long id", "no type", "no intent"],
)
def test_a_signed_body_that_is_no_event_is_refused(body: bytes, settings: Settings) -> None:
    with pytest.raises(WebhookInvalid):
        parse_webhook(settings, signed(body), body)


def test_the_refusals_have_codes_of_their_own_and_ask_for_no_bearer_token() -> None:
    assert (WebhookUnsigned.status, WebhookUnsigned.code, WebhookUnsigned().headers) == (401, "webhook_signature", {})
    assert (WebhookInvalid.status, WebhookInvalid.code) == (400, "webhook_invalid")


# The settings.

SAFE: dict[str, Any] = {"secret_key": "x" * 32, "payment_api_key": "a-key", "payment_webhook_secret": NEW}


@pytest.mark.parametrize("environment", ["test", "production"])
@pytest.mark.parametrize("name", ["payment_api_key", "payment_webhook_secret"])
def test_the_payment_secrets_of_development_are_refused_elsewhere(environment: str, name: str) -> None:
    given = {each: value for each, value in SAFE.items() if each != name}

    with pytest.raises(ValidationError, match=f"SHOP_{name.upper()} must be set"):
        Settings(_env_file=None, environment=environment, **given)

    Settings(_env_file=None, environment=environment, **SAFE)
    Settings(_env_file=None, environment="development", **given)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "not-a-secret", f"{NEW} whsec_!", NEW[6:]])
def test_a_webhook_secret_of_the_wrong_form_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValidationError, match="SHOP_PAYMENT_WEBHOOK_SECRET must be") as caught:
        Settings(_env_file=None, environment="development", payment_webhook_secret=secret)

    assert not secret or f"'{secret}'" not in str(caught.value)
