"""A name is text that can be seen: nothing in it is obeyed or hidden by a terminal or a page."""

import pytest
from pydantic import TypeAdapter, ValidationError

from shop.bounds import NAME_LENGTH_MAX, SUM_MINOR_MAX, Name
from shop.products.schemas import PRICE_MINOR_MAX
from shop.seckill.requests import QUANTITY_MAX

UNSEEN = "\0\n\x1b\x7f\x85\x9b\u00ad\u061c\u200b\u200e\u202e\u2028\u2066\u3164\ufeff\ufdd0\ue000\U000e0041"
NAMES: TypeAdapter[str] = TypeAdapter(Name)


@pytest.mark.parametrize(
    "text",
    [
        *(f"a{sign}b" for sign in UNSEEN),
        "a\ud800b",
        "\u200da",
        "a\u200d",
        "a\u200d\u200db",
        "a \u200db",
        "",
        "  ",
        "x" * (NAME_LENGTH_MAX + 1),
        "\u0958" * NAME_LENGTH_MAX,
    ],
    ids=ascii,
)
def test_a_name_has_nothing_that_a_terminal_or_a_page_would_obey_or_hide(text: str) -> None:
    """The last one has too many characters in its normal form alone."""
    with pytest.raises(ValidationError):
        NAMES.validate_python(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("  Phone [64GB/8GB] [/sale] ", "Phone [64GB/8GB] [/sale]"),
        ("Cafe\u0301", "Café"),
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
        ("نمی\u200cخواهم", "نمی\u200cخواهم"),
        ("नमस्ते 日本 Ünï", "नमस्ते 日本 Ünï"),
    ],
    ids=ascii,
)
def test_a_name_of_any_script_is_kept_in_its_normal_form(text: str, kept: str) -> None:
    assert NAMES.validate_python(text) == kept


def test_the_greatest_price_times_the_greatest_quantity_is_exact_in_every_language() -> None:
    assert PRICE_MINOR_MAX * QUANTITY_MAX <= SUM_MINOR_MAX
