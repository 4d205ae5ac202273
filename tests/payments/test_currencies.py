"""Sums for people: the digits are ISO 4217's, the signs between them those of the locale."""

import pytest
from pydantic import ValidationError

from shop.app.factory import create_app
from shop.cli.output import for_people
from shop.currencies import CODES, known, written
from shop.products.schemas import ProductCreate, ProductPatch
from shop.settings import Settings


@pytest.mark.parametrize(
    ("minor", "code", "english", "german"),
    [
        (123_456, "JPY", "123,456 JPY", "123.456 JPY"),
        (123_456, "BIF", "123,456 BIF", "123.456 BIF"),
        (123_456, "CLF", "12.3456 CLF", "12,3456 CLF"),
        (123_456, "KWD", "123.456 KWD", "123,456 KWD"),
        (123_456, "EUR", "1234.56 EUR", "1234,56 EUR"),
        (9_999_000, "EUR", "99,990.00 EUR", "99.990,00 EUR"),
        (5, "EUR", "0.05 EUR", "0,05 EUR"),
        (123_456, "IQD", "123.456 IQD", "123,456 IQD"),
        (123_456, "ALL", "1234.56 ALL", "1234,56 ALL"),
        (123_456, "AFN", "1234.56 AFN", "1234,56 AFN"),
        (123_456, "LAK", "1234.56 LAK", "1234,56 LAK"),
        (2**53 - 1, "UYW", "900,719,925,474.0991 UYW", "900.719.925.474,0991 UYW"),
    ],
)
def test_a_sum_has_the_digits_of_the_standard_whatever_the_locale(
    minor: int, code: str, english: str, german: str
) -> None:
    """Those of locales are others for IQD, ALL, AFN and LAK: who pays by them pays a thousandth."""
    assert (written(minor, code), written(minor, code, "de"), written(minor, code, "de-AT")[-3:]) == (
        english,
        german,
        code,
    )


def test_a_sum_of_a_currency_that_is_none_any_more_is_not_guessed() -> None:
    assert written(1_234, "ZZZ") == "1234 ZZZ (minor units)"


@pytest.mark.parametrize("code", ["ZZZ", "eur", "XAU", "XXX", "EU", "EURO", "", "€", "EUR "])
def test_a_product_has_a_currency_of_the_standard(code: str) -> None:
    with pytest.raises(ValidationError, match="ISO 4217"):
        ProductCreate(name="Lamp", price_minor=1, currency=code)
    with pytest.raises(ValidationError, match="ISO 4217"):
        ProductPatch(currency=code)


def test_every_currency_of_the_standard_is_taken() -> None:
    assert len(CODES) > 150
    assert [known(code) for code in CODES] == list(CODES)


def test_a_locale_that_is_none_is_refused_at_the_start(settings: Settings) -> None:
    with pytest.raises(ValidationError, match="SHOP_LOCALE"):
        Settings.model_validate({**settings.model_dump(), "locale": "klingon"})


def test_a_command_shows_people_a_sum_and_programs_minor_units() -> None:
    row = {"id": 1, "price_minor": 123_456, "currency": "JPY", "stock": 2, "refunded_minor": None}

    assert for_people(row) == {"id": 1, "price": "123,456 JPY", "stock": 2, "refunded": None}


def test_every_sum_in_the_api_has_its_currency_beside_it(settings: Settings) -> None:
    schemas = create_app(settings).fastapi.openapi()["components"]["schemas"]

    sums = {
        name: schema["properties"].keys()
        for name, schema in schemas.items()
        if any(each.endswith("_minor") for each in schema.get("properties", ()))
    }

    assert len(sums) > 10
    assert [name for name, properties in sums.items() if "currency" not in properties] == []
