"""The OpenAPI document: what FastAPI knows of the routes, with what they share said once.

A route says in its decorator how it may refuse (`problems(…)`), and nothing of what follows here.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from shop.http_headers import HEADERS, headers
from shop.problem_json import MEDIA_TYPE, problem_components

# JSON, as FastAPI makes it.
Document = dict[str, Any]

DESCRIPTION = """
Sells a fixed number of units to a crowd, and never one too many.

A purchase is accepted with **202** and a signed receipt: it is durable, and becomes exactly one order. Every refusal is
a problem document (RFC 9457) with a stable `code`, and its `type` opens. **503** means *definitely not executed*;
**504** or a lost connection means *unknown*: retry with the same `Idempotency-Key` and you get the truth.

A purchase with `Prefer: wait=N` is answered with **201** when the order is recorded in that time. Follow it afterwards
at `/v1/orders/{order_id}/events`, or ask again after `poll_after_ms`, with the `ETag` as `If-None-Match`.

A body is JSON in UTF-8 without a byte order mark, and has no member that is not named here. What is wrong with a
request stands in the `errors` of a 422, each with the part it is `in` and a `pointer` into that part.
Each GET can be a HEAD too. A list has at most `limit` entries; its `Link` leads to the next page.
"""
TAGS = {
    "purchase": "Buy units of a sale: the one route that a crowd meets.",
    "sales": "What is on sale and when, and why somebody was refused.",
    "orders": "The buyer's orders: place, follow, pay, cancel.",
    "payments": "What the payment provider calls.",
    "products": "The catalogue.",
    "accounts": "Register, sign in, and see who one is.",
    "admin": "For accounts with the role `admin` alone.",
    "operator": "Is it alive, is it ready, which release is it, what does an error mean.",
}
# Of parameters that say nothing themselves.
WHAT_IT_IS = {
    "limit": "How many to return.",
    "starting_after": "The last id of the page before.",
}
# What FastAPI is told of the API as a whole.
ABOUT: Document = {
    "title": "Shop",
    "description": DESCRIPTION,
    "contact": {"name": "Whoever runs this shop"},
    "license_info": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    "servers": [{"url": "/", "description": "this server"}],
    "openapi_tags": [{"name": name, "description": description} for name, description in TAGS.items()],
}


def install(app: FastAPI) -> None:
    """Let the app serve the document as it is made here."""
    generate = app.openapi

    def openapi() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = shared(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # how FastAPI wants it


def operation_id(route: APIRoute) -> str:
    """The name of the route's function, which is its summary too unless the route has one of its own."""
    if route.summary is None:
        route.summary = route.name.replace("_", " ").capitalize()
    return route.name


def shared(document: Document) -> Document:
    """The document with components in place of what several operations have; changed in place."""
    components = document["components"]
    for kind, named in (*problem_components().items(), ("headers", dict(HEADERS))):
        components[kind] = {**components.get(kind, {}), **named}
    _tidy(document)
    for operation in _operations(document):
        operation.setdefault("security", [])  # Said, so that nobody takes it for forgotten.
        for parameter in operation.get("parameters", ()):
            _without_null(parameter)
            parameter.setdefault("description", WHAT_IT_IS.get(parameter["name"], _which(parameter["name"])))
        for response in operation["responses"].values():
            response["headers"] = headers("X-Request-Id") | response.get("headers", {})
        if any(parameter["name"] == "starting_after" for parameter in operation.get("parameters", ())):
            operation["responses"]["200"]["headers"] |= headers("Link")
    _share_problems(document)
    _share_parameters(document)
    _drop_unused(document)
    return document


def _operations(document: Document) -> Iterator[Document]:
    return (operation for item in document["paths"].values() for operation in item.values())


def _tidy(node: object) -> None:
    """Remove the titles that Pydantic makes up from names, and write whole bounds as whole numbers."""
    if isinstance(node, list):
        for each in node:
            _tidy(each)
    elif isinstance(node, dict):
        if isinstance(node.get("title"), str) and node.keys() & {"type", "anyOf", "enum", "const"}:
            del node["title"]
        for name, each in node.items():
            if isinstance(each, float) and each.is_integer():
                node[name] = int(each)
            elif name not in {"example", "examples"}:
                _tidy(each)


def _which(name: str) -> str:
    return f"The {' '.join(name.split('_'))}."


def _without_null(parameter: Document) -> None:
    """A parameter that is not sent is absent; no text means null."""
    schema = parameter["schema"]
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema.update(kinds[0])
    schema.pop("description", None)


def _share_problems(document: Document) -> None:
    """Let each set of refusals with one status be one response, named for them."""
    responses = document["components"].setdefault("responses", {})
    for operation in _operations(document):
        for status, response in operation["responses"].items():
            examples = response.get("content", {}).get(MEDIA_TYPE, {}).get("examples")
            if examples:
                name = "Or".join(examples)
                responses[name] = response
                operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    document["components"]["responses"] = dict(sorted(responses.items()))


def _share_parameters(document: Document) -> None:
    """Let a parameter that several operations have in the same form be a component; of two forms the commoner one."""
    places: dict[str, list[tuple[list[Document], int]]] = defaultdict(list)
    for operation in _operations(document):
        found = operation.get("parameters", [])
        for place, parameter in enumerate(found):
            places[json.dumps(parameter, sort_keys=True)].append((found, place))
    components: Document = {}
    for form, uses in sorted(places.items(), key=lambda item: (-len(item[1]), item[0])):
        parameter = json.loads(form)
        if len(uses) > 1 and parameter["name"] not in components:
            components[parameter["name"]] = parameter
            for found, place in uses:
                found[place] = {"$ref": f"#/components/parameters/{parameter['name']}"}
    document["components"]["parameters"] = dict(sorted(components.items()))


def _drop_unused(document: Document) -> None:
    """Remove the components that nothing refers to, until there are none."""
    components = document["components"]
    while True:
        text = json.dumps(document)
        unused = [
            (kind, name)
            for kind, named in components.items()
            for name in named
            if kind != "securitySchemes" and f'"#/components/{kind}/{name}"' not in text
        ]
        if not unused:
            return
        for kind, name in unused:
            del components[kind][name]
