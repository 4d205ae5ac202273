"""What Pydantic finds wrong with a request, in the shop's own words: the entries of `errors` in a 422."""

from collections.abc import Iterable, Mapping
from typing import Any

from shop.problem_members import PARTS, violation

ENTRIES_MAX = 20
POINTER_CHARS_MAX = 200
# By the kind of Pydantic's error, or its first word: the shop's code, and the rule in words.
RULES = {
    "missing": ("missing", "This is needed"),
    "extra_forbidden": ("unknown", "There is no such member"),
    "greater_than_equal": ("minimum", "Must be at least {ge}"),
    "greater_than": ("minimum", "Must be more than {gt}"),
    "less_than_equal": ("maximum", "Must be at most {le}"),
    "less_than": ("maximum", "Must be less than {lt}"),
    "string_too_short": ("too_short", "Must have at least {min_length} characters"),
    "string_too_long": ("too_long", "Must have at most {max_length} characters"),
    "too_short": ("too_short", "Must have at least {min_length} entries"),
    "too_long": ("too_long", "Must have at most {max_length} entries"),
    "string_pattern_mismatch": ("format", "Must match {pattern}"),
    "enum": ("choice", "Must be {expected}"),
    "literal_error": ("choice", "Must be {expected}"),
    "int": ("type", "Must be a whole number"),
    "float": ("type", "Must be a number"),
    "finite": ("type", "Must be a number"),
    "bool": ("type", "Must be true or false"),
    "string": ("type", "Must be a text"),
    "list": ("type", "Must be an array"),
    "model": ("type", "Must be an object"),
    "dict": ("type", "Must be an object"),
    "uuid": ("format", "Must be a UUID"),
    "datetime": ("format", "Must be a time as in RFC 3339"),
    "timezone": ("format", "Must be a time as in RFC 3339, with its offset from UTC"),
    "url": ("format", "Must be a URL"),
}


def violations(found: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The first of these errors as entries. Where each is begins with its part of the request, as FastAPI has it."""
    return [_entry(error) for error, _ in zip(found, range(ENTRIES_MAX), strict=False)]


def _entry(error: Mapping[str, Any]) -> dict[str, str]:
    place = tuple(map(str, error["loc"]))
    part, place = (place[0], place[1:]) if place and place[0] in PARTS else ("body", place)
    code, words = _rule(error)
    return violation(part, _pointer(place), code, words)


def _rule(error: Mapping[str, Any]) -> tuple[str, str]:
    kind = str(error["type"])
    if (known := RULES.get(kind) or RULES.get(kind.partition("_")[0])) is not None:
        return known[0], known[1].format_map(error.get("ctx", {}))
    words = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    names_a_member = "_" in words.partition(" ")[0]
    return "rule", words if names_a_member else words[:1].upper() + words[1:]


def _pointer(place: tuple[str, ...]) -> str:
    """RFC 6901."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in place)[:POINTER_CHARS_MAX]
