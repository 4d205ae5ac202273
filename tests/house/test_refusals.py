"""What a refusal tells beyond the members of every problem is what its class declares, wherever it is raised."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import jsonschema_rs
import pytest

import shop.errors
from shop.advice import ADVICE
from shop.errors import ShopError
from shop.problem_json import problem, problem_components, refusals
from tests.source_tree import ROOT


class Raised(NamedTuple):
    """One place where a refusal is made: its class, and the members that are given by name."""

    where: str
    kind: type[ShopError]
    given: frozenset[str]


def raised() -> Iterator[Raised]:
    for file in sorted((ROOT / "shop").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name, given = node.func, frozenset(str(keyword.arg) for keyword in node.keywords)
            elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
                name, given = node.exc, frozenset()
            else:
                continue
            kind = getattr(shop.errors, name.id, None) if isinstance(name, ast.Name) else None
            if isinstance(kind, type) and issubclass(kind, ShopError):
                yield Raised(f"{file.relative_to(ROOT)}:{node.lineno}", kind, given)


def test_a_refusal_tells_what_its_class_declares_and_all_that_it_always_has() -> None:
    places = list(raised())
    undeclared, lacking = [], []
    for place in places:
        told = set(place.kind("a detail", **dict.fromkeys(place.given, 1)).extra)
        declared = {member.name: member.always for member in place.kind.members}
        undeclared += [(place.where, name) for name in told - declared.keys()]
        lacking += [(place.where, name) for name, always in declared.items() if always and name not in told]

    assert len(places) >= 60
    assert (undeclared, lacking) == ([], [])


KINDS = list(problem_components()["examples"])


@pytest.mark.parametrize("name", KINDS)
def test_the_example_of_a_refusal_fits_its_schema(name: str) -> None:
    components = problem_components()
    schema = {"$ref": f"#/components/schemas/{name}Problem", "components": components}
    if f"{name}Problem" not in components["schemas"]:
        schema["$ref"] = "#/components/schemas/Problem"

    jsonschema_rs.validate(schema, components["examples"][name]["value"])


def test_a_rule_that_only_the_detail_tells_is_an_error_too() -> None:
    """A client that shows the `errors` of a 422 shows something for each of them."""
    document = problem(shop.errors.Invalid("Too many", pointer="/units"), instance="/v1", request_id="1")

    assert document["errors"] == [{"in": "body", "pointer": "/units", "code": "rule", "detail": "Too many"}]


def test_there_is_advice_for_every_refusal_and_for_nothing_else() -> None:
    """Write what a client should do about a new one into `shop/advice.py`."""
    assert ADVICE.keys() == refusals().keys()
    assert [code for code, advice in ADVICE.items() if not re.fullmatch(r"[A-Z].{20,240}\.", advice)] == []
