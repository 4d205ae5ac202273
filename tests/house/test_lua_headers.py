"""The header of a Lua file is its contract: it agrees with the body, and with the Python that calls the script."""

import ast
import importlib
import inspect
import re
from dataclasses import dataclass
from types import ModuleType

import pytest

from shop.ledger import client as ledger
from shop.ledger.keys import LedgerKeys
from shop.redis import SCRIPT_NAMES, SCRIPTS_BEFORE, script
from shop.settings import bundled

LINE = "-- Every check is above this line and every write below it: Redis does not roll a script back."
SECTION = re.compile(r"^(KEYS|ARGV|ANSWERS)\n(.*?)(?=^(?:KEYS|ARGV|ANSWERS)$|\Z)", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^  (1\.\.n|\d+) +(\S.*)$", re.MULTILINE)
WORD = re.compile(r"\b[A-Z][A-Z_]{2,}\b")
RETURNED = re.compile(r"\breturn\b(?! redis\.error_reply)[^\n]*?'([A-Z][A-Z_]{2,})[ ']")
COMMAND = re.compile(r"redis\.p?call\(\s*'(\w+)'")
# Reads as a command that writes: so the caller's right to it, and the key's type, are checked above the line.
PROBE = "redis.call('BITFIELD', winners, 'GET', 'u1', 0)"

READS = frozenset({"EXISTS", "HGET", "HMGET", "MGET", "TIME", "XLEN", "XRANGE"})
WRITES = frozenset({"BITFIELD", "DEL", "HSET", "SET", "SETBIT", "XADD"}) | {
    *("ZINCRBY", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE", "ZUNIONSTORE")
}
# What a script says when it has written: everything else that it may say is decided above the line.
EFFECTS = frozenset({"ADDED", "APPLIED", "BEGUN", "FENCED", "LIFTED", "OPENED", "REFUSED", "RELEASED", "RESERVED"})
FULL_REDIS_ALLOWED = frozenset({"change", "fence", "release"})

# Which script's words a module of Python compares answers with.
CALLERS = {
    "shop.seckill.purchase": {"reserve"},
    "shop.seckill.group_commit": {"reserve"},
    "shop.ledger.client": {"reserve", "release"},
    "shop.sales.changes": {"change"},
    "shop.sales.loading": {"load_sale"},
    "shop.orders.release": {"release"},
    "shop.recovery.honouring": {"reserve"},
}
# What is never sent to the ledger, because it waited too long or asks too often: words of the process itself.
NOT_OF_A_SCRIPT = {
    "shop.seckill.purchase": {"DROPPED", "RATE_LIMITED"},
    "shop.seckill.group_commit": {"DROPPED", "RATE_LIMITED"},
    "shop.orders.release": {"WRONGTYPE"},  # of Redis itself
}


@dataclass(frozen=True)
class Contract:
    """A script taken apart: its first line, the sections of its header, and its body on both sides of the line."""

    shebang: str
    purpose: str
    keys: dict[str, str]
    arguments: dict[str, str]
    answers: str
    above: str
    below: str

    @property
    def words(self) -> set[str]:
        """The outcome words that the header promises."""
        return set(WORD.findall(self.answers))

    @property
    def body(self) -> str:
        return self.above + self.below


def contract(name: str) -> Contract:
    shebang, _, rest = script(name).source.partition("\n")
    header, _, body = rest.partition("\n]]\n")
    sections = {match[1]: match[2] for match in SECTION.finditer(header)}
    above, _, below = body.partition(LINE)
    return Contract(
        shebang=shebang,
        purpose=header.partition("\n")[0],
        keys=dict(ENTRY.findall(sections["KEYS"])),
        arguments=dict(ENTRY.findall(sections["ARGV"])),
        answers=sections["ANSWERS"],
        above=above,
        below=below,
    )


def words_in(module: ModuleType) -> set[str]:
    """The outcome words that a module of Python knows; the names of Redis commands are none."""
    tree = ast.parse(inspect.getsource(module))
    commands = {
        argument
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "command"
        for argument in call.args
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in commands and isinstance(node.value, str | bytes):
            text = node.value.decode() if isinstance(node.value, bytes) else node.value
            if WORD.fullmatch(text):
                found.add(text)
    return found


def test_every_lua_file_is_a_script_that_the_shop_loads() -> None:
    files = {str(file.relative_to(bundled("lua"))) for file in bundled("lua").rglob("*") if file.is_file()}
    before = {f"before/{name}.lua" for name in SCRIPTS_BEFORE}
    assert files == {f"{name}.lua" for name in SCRIPT_NAMES} | before


@pytest.mark.parametrize("name", SCRIPTS_BEFORE)
def test_the_script_of_the_release_before_is_another_one_and_says_the_same(name: str) -> None:
    """One that is the same is loaded already; a word that its callers do not know would be an error of theirs."""
    before, now = script(name, before=True), script(name)

    assert before.sha != now.sha
    headers = [each.source.partition("\n]]\n")[0] for each in (before, now)]
    assert set(WORD.findall(headers[0])) <= set(WORD.findall(headers[1]))


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_script_begins_with_its_shebang_and_says_whether_a_full_redis_may_run_it(name: str) -> None:
    """With `#!lua` a full Redis refuses a script before its first write; what gives back must work nevertheless."""
    assert contract(name).shebang == ("#!lua flags=allow-oom" if name in FULL_REDIS_ALLOWED else "#!lua")


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_header_has_its_name_its_purpose_and_its_three_sections_in_order(name: str) -> None:
    source = script(name).source

    assert re.match(rf"--\[\[ {name}: .{{20,}}", contract(name).purpose)
    assert source.index("\nKEYS\n") < source.index("\nARGV\n") < source.index("\nANSWERS\n") < source.index("\n]]\n")


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_every_key_of_the_header_is_bound_by_its_name_before_anything_else(name: str) -> None:
    """No key is made up in a script, and none is used by its position (F33)."""
    found = contract(name)
    if list(found.keys) == ["1..n"]:
        assert re.findall(r"KEYS\b.", found.body) == ["KEYS)"] * found.body.count("KEYS")
        return

    names = [described.split(" ")[0] for described in found.keys.values()]
    positions = ", ".join(f"KEYS[{number}]" for number in found.keys)
    first_statement = next(line for line in found.body.splitlines() if line)
    assert first_statement == f"local {', '.join(names)} = {positions}"
    assert list(found.keys) == [str(number) for number in range(1, len(names) + 1)]
    assert found.body.count("KEYS") == len(names)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_no_argument_is_used_that_the_header_does_not_name(name: str) -> None:
    found = contract(name)
    named = {int(number) for number in found.arguments}
    used = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", found.body)}

    assert named == set(range(1, len(named) + 1))
    assert used <= named


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_the_answers_of_the_header_are_those_of_the_body(name: str) -> None:
    """No word is promised that is never said, and none is said that was not promised."""
    found = contract(name)

    assert set(RETURNED.findall(found.body)) == found.words


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_every_check_is_above_the_line_and_every_write_below_it(name: str) -> None:
    """Redis does not roll a script back: after its first write nothing may be refused any more."""
    found = contract(name)
    assert script(name).source.count(LINE) == 1

    above, below = set(COMMAND.findall(found.above.replace(PROBE, ""))), set(COMMAND.findall(found.below))
    assert above <= READS
    assert below <= WRITES
    assert below
    assert set(RETURNED.findall(found.below)) <= EFFECTS
    assert "error" not in found.below


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_script_calls_redis_by_plain_commands_that_this_test_knows(name: str) -> None:
    """Nothing random, nothing that blocks, no command by a computed name, and no other way to reach Redis."""
    body = contract(name).body

    assert set(COMMAND.findall(body)) <= READS | WRITES
    assert len(COMMAND.findall(body)) == len(re.findall(r"redis\.\w*call\b", body))
    assert set(re.findall(r"\bredis\.(\w+)", body)) <= {"call", "error_reply"}
    assert not re.search(r"\b(math\.random|os\.|loadstring|setmetatable|_G)\b", body)


@pytest.mark.parametrize("name", [name for name in SCRIPT_NAMES if "XADD" in script(name).source])
def test_the_append_to_the_stream_is_the_first_write(name: str) -> None:
    """It is the one write that can still be refused, so it must be refused while nothing is written."""
    assert COMMAND.findall(contract(name).below)[0] == "XADD"


@pytest.mark.parametrize("caller", CALLERS)
def test_every_word_that_python_compares_with_is_one_that_its_script_says(caller: str) -> None:
    known = words_in(importlib.import_module(caller)) - NOT_OF_A_SCRIPT.get(caller, set())

    assert known
    assert known <= set().union(*(contract(name).words for name in CALLERS[caller]))


def test_the_purchase_has_an_answer_for_every_word_of_reserve() -> None:
    """A word without a meaning would be a 500 for a buyer."""
    modules = (importlib.import_module(name) for name in ("shop.seckill.purchase", "shop.seckill.group_commit"))

    assert set().union(*map(words_in, modules)) >= contract("reserve").words


def test_the_words_for_a_whole_batch_are_those_of_the_header() -> None:
    """The first line of the answers; the ledger's client gives such a word to each request of the batch."""
    whole, _, each = contract("reserve").answers.partition("for each request")

    assert {word.decode() for word in ledger.BATCH_WORDS} == set(WORD.findall(whole))
    assert not set(WORD.findall(whole)) & set(WORD.findall(each))


@pytest.mark.parametrize("name", ["load_sale", "release", "reserve"])
def test_the_keys_of_a_header_come_in_the_order_in_which_python_sends_them(name: str) -> None:
    names = tuple(described.split(" ")[0] for described in contract(name).keys.values())

    assert names == LedgerKeys._fields[: len(names)]
