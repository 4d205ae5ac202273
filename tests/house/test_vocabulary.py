"""The words of the house: what the field has a word for is called by it, and people are "they".

Old words are kept out of names: identifiers, files, settings, metrics, log events. In sentences most are English.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.source_tree import ROOT, named

FOLDERS = ("deploy", "docs", "loadtests", "lua", "migrations", "shop", "tests")
SUFFIXES = frozenset({".py", ".lua", ".md", ".yml", ".yaml", ".toml", ".html", ".conf", ".sh", ".example"})
# In a sentence or within a name, such as `what_he_has`.
PRONOUN = re.compile(r"(?<![A-Za-z])(he|him|his|himself|she|her|hers|herself)(?![A-Za-z])", re.IGNORECASE)
# A string that is one word, such as a log event, is a name; so is what stands between backticks, and what has a `_`.
ONE_WORD = re.compile(r"[a-z]*[\"']+([A-Za-z][\w.:/-]*)[\"']+")
IN_BACKTICKS = re.compile(r"`([\w./]+)`")
COMPOUND = re.compile(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+")
LUA_NAME = re.compile(r"[A-Za-z_]\w*")
LUA_COMMENT = re.compile(r"--\[\[.*?\]\]|--[^\n]*", re.DOTALL)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")


class Old(NamedTuple):
    """Words that follow each other in no name, what is said instead, and where, if they mean something elsewhere."""

    words: str
    say: str
    under: tuple[str, ...] = ("",)


OLD = (
    Old("beat", "heartbeat"),
    Old("beats", "heartbeats"),
    Old("unheard", "silence, missing"),
    Old("hand in", "report"),
    Old("hands in", "reports"),
    Old("handed in", "reported, unpersisted"),
    Old("undrained", "unpersisted", ("shop/seckill", "shop/app")),
    Old("set aside", "deferred, quarantined"),
    Old("sets aside", "defers"),
    Old("setting aside", "deferring"),
    Old("aside", "deferred"),
    Old("rests", "parks", ("shop/app", "shop/server")),
    Old("resting", "parked, suspended", ("shop",)),
    Old("in turns", "back-pressure"),
    Old("let in", "accept, admit"),
    Old("lets in", "accepts, admits"),
    Old("app places", "connection cap"),
    Old("turn away", "refuse early"),
    Old("turn", "iteration", ("shop", "tests/selling", "tests/server")),
    Old(
        "turns",
        "iterations",
        ("shop/app", "shop/server", "shop/orders", "shop/seckill", "tests/selling", "tests/server"),
    ),
    Old("heard", "counted, received"),
    Old("memory", "EWMA decay", ("shop/seckill", "shop/server")),
    Old("pressed", "saturated", ("shop",)),
    Old("remembers", "counts", ("shop",)),
    Old("late", "lagging", ("shop/server/gate", "tests/server/test_gate")),
    Old("live looking", "snapshot"),
    Old("look", "snapshot, poll, check", ("shop", "tests/recovery/audit")),
    Old("look seconds", "poll seconds, check seconds"),
    Old("looked", "read", ("shop",)),
    Old("looking", "snapshot", ("shop", "tests/recovery/audit")),
    Old("keep running", "supervise"),
    Old("end tasks", "cancel and wait"),
    Old("demands", "requirements"),
    Old("hole", "CVE"),
    Old("mended", "fixed"),
    Old("weather", "transient failure"),
    Old("lifeline", "parent pipe"),
    Old("bury", "reap, mark dead"),
    Old("buried", "dead"),
    Old("places", "slots", ("shop/processes", "tests/server/processes")),
    Old("member", "worker", ("shop/processes", "tests/server/processes")),
    Old("ground", "testbed"),
    Old("hands", "context", ("loadtests",)),
    Old("wound", "injection of a fault"),
    Old("wounds", "injections"),
    Old("inflict", "inject"),
    Old("market", "driver"),
    Old("strike", "inject"),
    Old("struck", "injected"),
    Old("rest seconds", "cool-down, back-off, or sleep"),
    Old("rest until", "back-off"),
    Old("rested", "unchanged, idle"),
    Old("breaker open", "circuit open", ("shop/payments", "shop/breaker.py")),
    Old(
        "take",
        "ingest, adopt, lease, run",
        ("shop/app", "shop/server", "shop/recovery", "shop/payments", "shop/seckill"),
    ),
    Old("settle one", "match"),
    Old("settle claims", "close claims"),
    Old("settle open", "close open changes"),
    Old(
        "take",
        "ingest, adopt, lease, run",
        ("shop/app", "shop/server", "shop/recovery", "shop/payments", "shop/seckill"),
    ),
    Old("take step", "run step"),
    Old("ledger place", "position"),
    Old("place after", "position"),
    Old("keeper", "parent"),
)


@lru_cache
def texts() -> tuple[Path, ...]:
    """Every file that people write and read, but this one, which has the old words in it."""
    found = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    return tuple(
        file
        for file in sorted(found)
        if file.suffix in SUFFIXES and file.is_file() and file != Path(__file__) and "node_modules" not in file.parts
    )


def names(text: str, suffix: str) -> Iterator[str]:
    """The names in a file of this kind, each as it is written."""
    yield from IN_BACKTICKS.findall(text)
    if suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                yield token.string
            elif token.type == tokenize.STRING and (only := ONE_WORD.fullmatch(token.string)):
                yield only[1]
    elif suffix == ".lua":
        yield from LUA_NAME.findall(LUA_COMMENT.sub("", text))
    else:
        yield from COMPOUND.findall(text)


def words(name: str) -> str:
    """The words of a name, apart and in lower case, with a space before and behind each."""
    return f" {' '.join(WORD.findall(name)).lower()} "


@lru_cache
def words_of_names() -> dict[str, frozenset[str]]:
    """The words of all names, by the file that has them; its own name is one of them."""
    return {
        named(file): frozenset(map(words, {named(file), *names(file.read_text(), file.suffix)})) for file in texts()
    }


@pytest.mark.parametrize("old", OLD, ids=lambda old: old.words)
def test_no_name_is_of_the_old_dialect(old: Old) -> None:
    """`old.say` is what the field says."""
    found = {
        file: sorted(name.strip() for name in has if f" {old.words} " in name)
        for file, has in words_of_names().items()
        if file.startswith(old.under) and any(f" {old.words} " in name for name in has)
    }

    assert found == {}


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("def old_word(): ...", ".py"),
        ("class OldWord: ...", ".py"),
        ("OLD_WORD_MAX = 1", ".py"),
        ('log.info("old_word")', ".py"),
        ("# See `old_word`.", ".py"),
        ("local old_word = 1", ".lua"),
        ("It is `shop.old_word` that counts.", ".md"),
        ("  SHOP_OLD_WORD_SECONDS:", ".yml"),
        ("expr: rate(shop_old_word_total[5m])", ".yml"),
    ],
)
def test_a_name_is_found_in_each_form(text: str, suffix: str) -> None:
    assert any(" old word " in words(name) for name in names(text, suffix))


def test_a_sentence_may_have_any_word() -> None:
    said = '"""An old word."""\nlog.info("an old word")  # old word\n'

    assert not any(" old word " in words(name) for name in names(said, ".py"))


def test_people_are_they() -> None:
    found = [
        f"{named(file)}:{number}: {line.strip()[:120]}"
        for file in texts()
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if PRONOUN.search(line)
    ]

    assert found == []
