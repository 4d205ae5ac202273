"""After the payment the buyer's browser goes back to the shop, and to no page of anybody else."""

import pytest

from shop.errors import Invalid
from shop.payments.returning import RULE, check_return_url
from shop.settings import Settings
from tests.payments.conftest import Paying
from tests.payments.orders import one_bought, payment_of

BACK = "https://shop.example/orders/thanks?order=1"
OF_THE_SHOP = (
    "https://shop.example",
    "https://shop.example/",
    BACK,
    "https://SHOP.example:443/a%20b",
    "https://shop.example?order=1",
    "https://shop.example//evil.example/",
    "https://pay.shop.example:8443/x",
    "https://xn--mnchen-3ya.example/",
)
TRICKS = (
    "",
    "/orders/thanks",
    "//shop.example/",
    "https:shop.example",
    "https:/shop.example",
    "https:///shop.example",
    "http://shop.example/",
    "http://localhost:3000/",
    "http://127.0.0.1:3000/",
    "https://localhost:3000/",
    "javascript:alert(1)",
    "javascript://shop.example/%0aalert(1)",
    "data:text/html,hello",
    "https://evil.example/",
    "https://evil.example/?https://shop.example/",
    "https://shop.example.evil.example/",
    "https://evilshop.example/",
    "https://sub.shop.example/",
    "https://shop.example./",
    "https://shop.example@evil.example/",
    "https://user@shop.example/",
    "https://user:password@shop.example/",
    "https://@shop.example/",
    "https://evil.example\\@shop.example/",
    "https://shop.example\\.evil.example/",
    "https:\\\\shop.example/",
    "https://evil.example#@shop.example/",
    "https://shop.example#@evil.example/",
    "https://shop.example/#fragment",
    "https://shop.example%2eevil.example/",
    "https://shop.example%00.evil.example/",
    "https://shop.example:444/",
    "https://shop.example:/",
    "https://shop.example:0/",
    "https://shop.example:65979/",
    "https://shop.example:443@evil.example/",
    "https://pay.shop.example/",
    "https://[::1]/",
    "https://[shop.example]/",
    " https://shop.example/",
    "https://shop.example/ ",
    "https://shop.example/\r\nSet-Cookie: a=b",
    "https://shop.example/\n",
    "https://shop.example/\t",
    "https://shop\t.example/",
    "https://shop.example/\x00",
    "https://shop.example/%zz",
    "https://shop.example/\u202e",
    "https://shop\u3002example/",
    "https://sh\u043ep.example/",
    "https://münchen.example/",
    "https://shop.example/" + "a" * 2_000,
)


def _settings(**given: object) -> Settings:
    names = [
        "https://shop.example/",
        "https://pay.shop.example:8443",
        "https://münchen.example",
        "http://localhost:3000",
    ]
    wanted: dict[str, object] = {"environment": "test", "return_origins": names, **given}
    return Settings(
        _env_file=None,
        secret_key="a-secret-of-the-tests-that-is-long-enough",
        payment_api_key="a-key-of-the-tests",
        payment_webhook_secret="whsec_dGhlLXNlY3JldC1vZi10aGUtdGVzdHMtaXMtbG9uZw==",
        **wanted,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("url", OF_THE_SHOP)
def test_a_buyer_returns_to_the_origins_of_the_shop(url: str) -> None:
    assert check_return_url(url, _settings()) == url


@pytest.mark.parametrize("url", TRICKS)
def test_a_buyer_is_sent_nowhere_else(url: str) -> None:
    """However it is written: what another reader could take for another host is refused, with the rule."""
    with pytest.raises(Invalid) as refused:
        check_return_url(url, _settings())

    [error] = refused.value.extra["errors"]
    assert (error["pointer"], error["detail"]) == ("/return_url", RULE)


def test_without_a_setting_they_are_the_origins_whose_pages_may_use_the_shop() -> None:
    """`*` names none of them."""
    named = _settings(return_origins=None, cors_origins=["https://page.example"])

    assert check_return_url("https://page.example/x", named)
    for settings in (named, _settings(return_origins=None, cors_origins=["*"]), _settings(return_origins=[])):
        with pytest.raises(Invalid):
            check_return_url(BACK, settings)


def test_in_development_a_buyer_may_return_to_their_own_machine_in_clear() -> None:
    settings = _settings(environment="development", return_origins=["http://localhost:3000", "http://shop.example"])

    assert check_return_url("http://localhost:3000/thanks", settings)
    with pytest.raises(Invalid):
        check_return_url("http://shop.example/thanks", settings)


@pytest.mark.parametrize("origins", ['["*"]', '["https://shop.example/path"]', '["shop.example"]', '["null"]'])
def test_an_origin_to_return_to_that_is_none_stops_the_start(origins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_RETURN_ORIGINS", origins)

    with pytest.raises(ValueError, match="an origin is a scheme and a host"):
        Settings(_env_file=None, environment="development")


@pytest.mark.parametrize("outcome", ["pay", "decline"])
async def test_the_payment_page_sends_the_buyer_back(paying: Paying, outcome: str) -> None:
    order = await one_bought(paying.shop, await paying.shop.open_sale(units=1))
    started = await paying.start(order.id, order.user_id, body={"return_url": BACK})
    assert started.status_code == 201, started.text
    pay_url = started.json()["pay_url"]

    page = await paying.provider.get(pay_url)
    pressed = await paying.provider.post(pay_url, data={"outcome": outcome})

    assert (pressed.status_code, pressed.headers["location"]) == (303, BACK)
    # Else a browser would stop at the redirect of the form.
    assert "form-action 'self' https://shop.example;" in page.headers["content-security-policy"]
    # A try that is made by the worker, because the answer was lost, says the same.
    assert (await payment_of(paying.shop, order.id)).return_url == BACK


async def test_a_payment_that_would_send_the_buyer_away_is_not_started(paying: Paying) -> None:
    order = await one_bought(paying.shop, await paying.shop.open_sale(units=1))

    refused = await paying.start(order.id, order.user_id, body={"return_url": "https://evil.example/"})

    assert refused.status_code == 422
    assert refused.json()["code"] == "invalid"
    assert RULE in refused.text
    assert (await paying.start(order.id, order.user_id)).status_code == 201
    assert (await payment_of(paying.shop, order.id)).return_url is None
