"""The routes as the OpenAPI document has them, so that a new one is covered without being named."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.harness import Shop

# A value for each kind of parameter in a path; nothing is there under it.
EXAMPLES = {"integer": "2147483646", "uuid": "00000000-0000-8000-8000-000000000001", "string": "nobody"}


class Route(NamedTuple):
    """One operation: its method, its path with examples in place of the parameters, what it takes, who may ask."""

    method: str
    url: str
    path: str
    needs_token: bool
    parameters: list[dict[str, Any]]
    body: dict[str, Any]
    body_required: bool

    def path_with(self, values: Mapping[str, str]) -> str:
        """The path with these values in its parameters, and examples in the others."""
        examples = {each["name"]: _example(each) for each in self.parameters if each["in"] == "path"}
        return self.path.format(**{**examples, **values})

    @property
    def is_admins(self) -> bool:
        return self.path.startswith("/v1/admin")

    @property
    def media_type(self) -> str | None:
        return next(iter(self.body), None)


class Document(NamedTuple):
    """The document of a running shop."""

    content: dict[str, Any]

    @property
    def routes(self) -> list[Route]:
        return list(self._routes())

    def resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        """What a reference means; anything else as it is."""
        while "$ref" in node:
            _, _, kind, name = node["$ref"].split("/")
            node = self.content["components"][kind][name]
        return node

    def _routes(self) -> Iterator[Route]:
        for path, item in self.content["paths"].items():
            for method, operation in item.items():
                parameters = [self.resolved(each) for each in operation.get("parameters", [])]
                body = operation.get("requestBody", {})
                yield Route(
                    method.upper(),
                    path.format(**{each["name"]: _example(each) for each in parameters if each["in"] == "path"}),
                    path,
                    bool(operation.get("security")),
                    parameters,
                    body.get("content", {}),
                    body.get("required", False),
                )

    def schemas_of(self, route: Route) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every object that a body of this route may hold, however deep, each with its name."""
        waiting = [each["schema"] for each in route.body.values()]
        while waiting:
            schema = waiting.pop()
            if "$ref" in schema:
                name, resolved = schema["$ref"].rpartition("/")[2], self.resolved(schema)
                yield name, resolved
                waiting += resolved.get("properties", {}).values()
            else:
                waiting += [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]


async def document_of(shop: Shop) -> Document:
    """The document that this shop serves."""
    client = await shop.client()
    return Document((await client.get("/openapi.json")).json())


def _example(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    return EXAMPLES["uuid" if schema.get("format") == "uuid" else schema["type"]]
