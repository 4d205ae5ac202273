"""The OpenAPI document: valid, and it says of every operation how it may refuse."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
import schemathesis

from shop.app.factory import create_app
from shop.problem_json import MEDIA_TYPE, refusals
from shop.settings import Settings
from tests.source_tree import ROOT

# They ask nobody and refuse nothing; `readyz` has a document of its own.
NEVER_REFUSES = frozenset({"livez", "read_version", "welcome"})
OWN_DOCUMENT = frozenset({"readyz"})
PURCHASE_ANSWERS = frozenset({200, 201, 202, 400, 401, 403, 404, 409, 410, 413, 415, 422, 429, 503, 504})
# Words, as a list of what can be done has them.
SUMMARY = re.compile(r"[A-Z][a-z]+( [A-Za-z-]+){1,7}[a-z?]")


class Operation(NamedTuple):
    """One operation of the document."""

    method: str
    path: str
    content: dict[str, Any]
    answers: dict[int, dict[str, Any]]

    @property
    def id(self) -> str:
        name: str = self.content["operationId"]
        return name

    def codes(self, document: dict[str, Any], status: int) -> set[str]:
        """The codes of the refusals with this status, as the examples have them."""
        examples = self.answers[status].get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
        return {resolved(document, example)["value"]["code"] for example in examples.values()}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    settings = Settings(_env_file=None, environment="development")
    return create_app(settings).fastapi.openapi()


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method, content in item.items():
            answers = {int(status): resolved(document, answer) for status, answer in content["responses"].items()}
            yield Operation(method, path, content, answers)


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """What a reference means; anything else as it is."""
    while "$ref" in node:
        _, _, kind, name = node["$ref"].split("/")
        node = document["components"][kind][name]
    return node


def test_the_committed_document_is_the_one_that_the_shop_serves(document: dict[str, Any]) -> None:
    """A change of the API is seen in its diff."""
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())

    assert committed == document, "the API has changed: run `make openapi`, and look at the diff of docs/openapi.json"


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    # A URL may be relative, says the text of OpenAPI 3.1; its published schema does not know that of this one yet.
    checked = deepcopy(document)
    [scheme] = checked["components"]["securitySchemes"].values()
    scheme["flows"]["password"]["tokenUrl"] = "https://shop.example/v1/auth/token"
    schemathesis.openapi.from_dict(checked).validate()

    assert document["openapi"].startswith("3.1")
    assert document["info"]["license"]["identifier"] == "Apache-2.0"


def test_every_schema_of_the_document_is_valid_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_operation_has_an_id_of_its_own_a_described_tag_a_summary_and_a_sentence(
    document: dict[str, Any],
) -> None:
    found = list(operations(document))
    tags = {tag["name"] for tag in document["tags"] if tag["description"].endswith(".")}

    assert len({operation.id for operation in found}) == len(found)
    assert [operation.id for operation in found if not set(operation.content.get("tags", ())) <= tags] == []
    assert [operation.id for operation in found if not SUMMARY.fullmatch(operation.content["summary"])] == []
    assert len({operation.content["summary"] for operation in found}) == len(found)
    assert [operation.id for operation in found if not operation.content.get("tags")] == []
    assert [operation.id for operation in found if not operation.content.get("description", "").endswith(".")] == []


def test_every_operation_that_can_refuse_says_how(document: dict[str, Any]) -> None:
    silent = {op.id for op in operations(document) if not [status for status in op.answers if status >= 400]}

    assert silent == NEVER_REFUSES


def test_every_refusal_is_a_problem_document_with_a_code_that_the_shop_has(document: dict[str, Any]) -> None:
    """Not even a validation error looks like FastAPI's own."""
    known = refusals()
    for operation in operations(document):
        for status, answer in operation.answers.items():
            if status < 400 or operation.id in OWN_DOCUMENT:
                continue
            assert set(answer["content"]) == {MEDIA_TYPE}, (operation.id, status)
            assert operation.codes(document, status), (operation.id, status)
            for code in operation.codes(document, status):
                assert known[code].status == status, (operation.id, code)


def test_an_operation_that_needs_a_token_says_what_happens_without_one(document: dict[str, Any]) -> None:
    """401 for none, 403 for a blocked one or for a shopper's where an admin's is needed."""
    for operation in operations(document):
        if operation.content.get("security"):
            assert {401, 403} <= set(operation.answers), operation.id
        assert bool(operation.content.get("security")) or not operation.path.startswith("/v1/admin"), operation.id


def test_an_operation_that_takes_a_body_says_what_happens_to_a_bad_one(document: dict[str, Any]) -> None:
    for operation in operations(document):
        if "requestBody" in operation.content:
            assert {400, 413, 415, 422} <= set(operation.answers), operation.id


def test_an_operation_that_needs_a_server_says_what_happens_without_it(document: dict[str, Any]) -> None:
    for operation in operations(document):
        if operation.path.startswith("/v1"):
            assert 503 in operation.answers, operation.id


def test_the_purchase_declares_every_answer_that_it_has(document: dict[str, Any]) -> None:
    [purchase] = [operation for operation in operations(document) if operation.id == "purchase"]

    assert (purchase.method, purchase.path) == ("post", "/v1/seckill/sales/{sale_id}/orders")
    assert set(purchase.answers) == PURCHASE_ANSWERS
    codes = {code for status in purchase.answers for code in purchase.codes(document, status)}
    assert codes >= {
        "sold_out",
        "not_enough_units",
        "over_limit",
        "sale_not_started",
        "sale_paused",
        "sale_ended",
        "idempotency_mismatch",
        "idempotency_key_invalid",
        "rate_limited",
        "overloaded",
        "not_ready",
        "unknown_outcome",
        "user_blocked",
        "not_found",
    }


def test_the_authorize_button_signs_in_with_the_token_route(document: dict[str, Any]) -> None:
    [scheme] = document["components"]["securitySchemes"].values()

    assert scheme["type"] == "oauth2"
    assert scheme["flows"]["password"]["tokenUrl"] == "/v1/auth/token"


def test_every_list_and_each_of_its_entries_says_what_it_is(document: dict[str, Any]) -> None:
    """And where an entry has a sum, its currency stands beside it."""
    schemas = document["components"]["schemas"]
    members = {name: each.get("properties", {}) for name, each in schemas.items()}
    lists = {name: each for name, each in members.items() if {"data", "has_more"} <= each.keys()}
    entries = {name: schemas[each["data"]["items"]["$ref"].rpartition("/")[2]] for name, each in lists.items()}

    assert len(lists) >= 9
    assert {name: each.get("object", {}).get("const") for name, each in lists.items()} == dict.fromkeys(lists, "list")
    assert [name for name, each in entries.items() if "const" not in each["properties"].get("object", {})] == []
    sums = {name for name, each in entries.items() if any(field.endswith("_minor") for field in each["properties"])}
    assert [name for name in sums if "currency" not in entries[name]["properties"]] == []
