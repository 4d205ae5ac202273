"""Wrong usage is one line, or with --json one object, and the status is 2."""

from collections.abc import Callable

import pytest

from tests.commands.all_commands import commands
from tests.nursery import Said

WRONG = [
    ("sale", "pause", "99999999999"),
    ("sale", "audit", "-1"),
    ("sale", "quarantine", "1", str(2**63)),
    ("sale", "create", "--product", "1", "--units", "1", "--starts-in", "1e18"),
    ("sale", "create", "--product", "1", "--units", "1", "--starts-in", "nan"),
    ("sale", "create", "--product", "1", "--units", "1", "--starts-in", "-inf"),
    ("sale", "create", "--product", "1", "--units", "1", "--lasts", "inf"),
    ("sale", "create", "--product", str(2**63), "--units", "1"),
    ("sale", "create", "--product", "1", "--units", str(2**70)),
    ("sale", "window", "1", "--ends-at", "infinity"),
    ("sale", "window", "1", "--starts-at", "0001-01-01T00:00:00Z"),
    ("sale", "window", "1", "--ends-at", "9999-12-31T23:59:59.9999999Z"),
    ("sale", "window", "1", "--ends-at", "9999-12-31T23:59:59-23:59"),
    ("sale", "window", "1"),
    ("sale", "create", "--product", "1", "--units", "1", "--name", "a\u202eb"),
    ("sale", "create", "--product", "1", "--units", "1", "--price", str(2**53)),
    ("sale", "stock", "1", str(2**70)),
    ("product", "stock", "1", str(2**70)),
    ("product", "stock", str(2**63), "1"),
    ("product", "create", "\x1b[31m", "--price", "1"),
    ("product", "create", "Ph\u202eone", "--price", "1"),
    ("product", "create", "\u200b", "--price", "1"),
    ("product", "create", "X", "--price", "900000000001"),
    ("product", "create", "X", "--price", str(2**70)),
    ("product", "create", "X", "--price", "1", "--currency", "[/bold]"),
    ("sandbox-provider", "--delay", "nan"),
    ("sandbox-provider", "--port", "99999"),
    ("sandbox-provider", "--webhook-url", "http://["),
    ("demo", "--processes", "1e9"),
    ("order", "trail", "\x1b]0;x\x07"),
]


@pytest.mark.parametrize("words", WRONG, ids=lambda words: ascii(" ".join(words)[:50]))
def test_what_cannot_be_meant_is_one_line(words: tuple[str, ...], says: Callable[..., Said]) -> None:
    """A number, a time or a text outside of all bounds is refused before any server is asked."""
    said = says(*words, SHOP_ENVIRONMENT="development")

    assert (said.status, said.output) == (2, ""), said
    assert said.errors.startswith("error: "), said
    assert (said.errors.count("\n"), said.errors.strip().isprintable()) == (1, True), said


def test_wrong_usage_of_any_command_is_one_json_object(says: Callable[..., Said]) -> None:
    """An option that no command has, asked of each of them."""
    for path, _ in commands():
        said = says(*path, "--json", "--wat")
        assert (said.status, said.errors, said.value["error"]["code"]) == (2, "", "usage"), path


def test_an_error_without_a_command_is_one_json_object(says: Callable[..., Said]) -> None:
    """Also where the words are wrong before any command is known."""
    for words in (("--json",), ("nothing", "--json"), ("sale", "nothing", "--json")):
        said = says(*words)
        assert (said.status, said.errors, said.value["error"]["code"]) == (2, "", "usage"), words
