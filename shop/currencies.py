"""Currencies by ISO 4217, and how a sum is written for people.

The digits behind the point are those of the standard, kept by the `iso4217` package, as payment providers count them.
The tables of locales (CLDR) have others for daily life, such as none for IQD and ALL: they say how a number is written
somewhere, and never what a minor unit is.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache, partial

from iso4217 import Currency

# Without those that have no minor unit by the standard: metals, funds, and codes for tests.
EXPONENTS: Mapping[str, int] = {each.code: each.exponent for each in Currency if each.exponent is not None}
CODES = tuple(sorted(EXPONENTS))
# A number of four digits is written without a separator, as ISO 80000-1 lets it be.
GROUPED_FROM = 10_000


def known(code: str) -> str:
    """The code. Raises ValueError when ISO 4217 has no such currency, or has no minor unit of it."""
    if code not in EXPONENTS:
        raise ValueError("a currency is a code of ISO 4217 with a minor unit, such as EUR")
    return code


def written(minor: int, code: str, locale: str = "en") -> str:
    """A sum in minor units as people there write it, with its code: `12.50 EUR`, `12,50 EUR`, `1250 JPY`.

    Rows may have the code of a currency that is none any more: its digits are unknown, and it is said so.
    """
    exponent = EXPONENTS.get(code)
    if exponent is None:
        return f"{minor} {code} (minor units)"
    amount = Decimal(minor).scaleb(-exponent)
    return f"{_pattern(locale, exponent, abs(amount) >= GROUPED_FROM)(amount)} {code}"


def is_locale(name: str) -> bool:
    """Whether numbers can be written as in this locale, such as `de` or `pt_BR`."""
    from babel import Locale, UnknownLocaleError

    try:
        Locale.parse(name.replace("-", "_"))
    except (ValueError, UnknownLocaleError):
        return False
    return True


@lru_cache
def _pattern(locale: str, exponent: int, grouped: bool) -> Callable[[Decimal], str]:
    # Babel is imported by those who write sums, and by nobody who sells.
    from babel.numbers import format_decimal

    pattern = ("#,##0" if grouped else "0") + ("." + "0" * exponent if exponent else "")
    return partial(format_decimal, format=pattern, locale=locale.replace("-", "_"))
