"""What a time, a sum, a number, an id and a text may be where they come in, one type each.

Every body, query, path, argument of a command and file takes its values through these, so that whatever is behind (a
column, a script, a terminal, a browser) can hold what has passed. They know nothing of the shop's nouns: a domain adds
its own bounds (`shop.products.schemas`) within these.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from annotated_types import GroupedMetadata
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints

# Postgres and Redis hold more, but not all of Python's: near its ends a time turns into `infinity`, and no hold and no
# time zone fits behind it.
TIME_MIN = datetime(2000, 1, 1, tzinfo=UTC)
TIME_MAX = datetime(9000, 1, 1, tzinfo=UTC)
# The largest whole number that every client's language holds exactly (RFC 8259, section 6).
SUM_MINOR_MAX = 2**53 - 1
ROW_ID_MAX = 2**63 - 1
PAGE_MAX = 100
NAME_LENGTH_MAX = 200
TEXT_LENGTH_MAX = 4_000

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d.*", re.ASCII | re.DOTALL)
DECIMAL = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
HYPHENATED = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def as_time(text: object) -> object:
    """A time is text with its date and its time of day; a bare number or a bare date is none."""
    if isinstance(text, datetime) or (isinstance(text, str) and RFC_3339.fullmatch(text)):
        return text
    raise ValueError("a time is written as in RFC 3339, such as 2030-01-01T12:00:00Z")


def within_horizon(at: datetime) -> datetime:
    """The time in UTC. Raises ValueError outside of TIME_MIN..TIME_MAX."""
    if not TIME_MIN <= at < TIME_MAX:
        raise ValueError(f"a time lies from {TIME_MIN:%Y-%m-%d} on, and before {TIME_MAX:%Y-%m-%d}")
    return at.astimezone(UTC)


Time = Annotated[
    AwareDatetime,
    BeforeValidator(as_time),
    AfterValidator(within_horizon),
    Field(
        description="From the year 2000 to the year 8999, with its offset from UTC (RFC 3339).",
        examples=["2030-01-01T12:00:00Z"],
        json_schema_extra={"pattern": "^[2-8][0-9]{3}-"},
    ),
]
SumMinor = Annotated[int, Field(strict=True, ge=0, le=SUM_MINOR_MAX)]
RowId = Annotated[int, Field(strict=True, ge=1, le=ROW_ID_MAX, examples=[1])]


@dataclass(frozen=True)
class Digits(GroupedMetadata):
    """A whole number that comes as text, in a query or a path: `Annotated[int, Digits(1, 100)]`.

    It has one form: ASCII digits without a plus, a point or leading zeros. In a path, an id that is written otherwise
    names nothing, and is `missing` as one that nobody has: so `+10`, `010` and `11.0` are as `999999999` is. What is
    no whole number at all, or lies outside, breaks the rule.
    """

    ge: int
    le: int
    missing: Callable[[], Exception] | None = None

    def __iter__(self) -> Iterator[object]:
        yield Field(ge=self.ge, le=self.le)
        yield BeforeValidator(self._one_form)

    def _one_form(self, value: object) -> object:
        if isinstance(value, str) and not DECIMAL.fullmatch(value):
            if self.missing is not None and _is_whole_number(value):
                raise self.missing()
            raise ValueError("a whole number is written in digits, without leading zeros")
        return value


WrittenId = Annotated[int, Digits(1, ROW_ID_MAX)]
Limit = Annotated[int, Digits(1, PAGE_MAX), Field(description="How many to return.")]


@dataclass(frozen=True)
class Hyphenated(GroupedMetadata):
    """The same for an id that is a UUID: with hyphens, without braces or `urn:uuid:`, in large or small letters."""

    missing: Callable[[], Exception] | None = None

    def __iter__(self) -> Iterator[object]:
        yield BeforeValidator(self._one_form)

    def _one_form(self, value: object) -> object:
        if isinstance(value, str) and not HYPHENATED.fullmatch(value):
            if self.missing is not None and _is_uuid(value):
                raise self.missing()
            raise ValueError("an id is written as 00000000-0000-8000-8000-000000000000")
        return value


def _is_whole_number(text: str) -> bool:
    for read in (int, float):
        try:
            return float.is_integer(float(read(text)))
        except (ValueError, OverflowError):
            continue
    return False


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


# Letters and signs that take no ink, and so make a name that looks empty, or like another one.
BLANK = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
# Zero-width joiners are part of many scripts and of emoji, between two signs that can be seen.
JOINERS = "\u200c\u200d"
# What the validator below refuses and a pattern can say, for those who read the document.
CONTROLS = r"\u0000-\u001f\u007f-\u009f"
DIRECTIONS = r"\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
ONE_LINE, LINES = (
    rf"^[^{CONTROLS}{DIRECTIONS}]*$",
    rf"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f{DIRECTIONS}]*$",
)
LINE_BREAKS = "\t\n\r"
UNREADABLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class Text(GroupedMetadata):
    """Text that people read, in NFC and without blanks at its ends: `Annotated[str, Text(200)]`.

    It has no controls, no signs that turn the direction of what stands around it, nothing that takes no ink, and no
    code points without a meaning: a terminal or a page would obey or hide them. `lines` allows line breaks and tabs.
    """

    length_max: int
    length_min: int = 1
    lines: bool = False

    def __iter__(self) -> Iterator[object]:
        yield StringConstraints(min_length=self.length_min, max_length=self.length_max)
        yield AfterValidator(self._readable)
        yield Field(json_schema_extra={"pattern": LINES if self.lines else ONE_LINE})

    def _readable(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        for at, sign in enumerate(text):
            if not (self.lines and sign in LINE_BREAKS) and not _is_readable(text, at):
                raise ValueError(f"U+{ord(sign):04X} is no sign that may stand in a text")
        text = text.strip()
        if not self.length_min <= len(text) <= self.length_max:
            raise ValueError(f"a text of {self.length_min} to {self.length_max} characters is needed")
        return text


def _is_readable(text: str, at: int) -> bool:
    """Whether the sign at this place can be seen, or joins two that can."""
    sign = text[at]
    if sign in JOINERS:
        return 0 < at < len(text) - 1 and not {text[at - 1], text[at + 1]} & {" ", *JOINERS}
    return sign not in BLANK and unicodedata.category(sign) not in UNREADABLE


Name = Annotated[str, Text(NAME_LENGTH_MAX), Field(examples=["Phone"])]
Description = Annotated[
    str, Text(TEXT_LENGTH_MAX, length_min=0, lines=True), Field(examples=["Sixty-four gigabytes, blue."])
]
