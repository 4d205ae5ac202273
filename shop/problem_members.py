"""The members that a problem document has beyond those of every one, typed: a client knows what may come."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Member(NamedTuple):
    """One member: its name, its JSON schema with an example, and whether every refusal of its class has it."""

    name: str
    schema: Mapping[str, Any]
    always: bool = True

    def sometimes(self) -> "Member":
        """The same member of a class whose refusals do not all have it."""
        return self._replace(always=False)

    @property
    def example(self) -> object:
        return self.schema["examples"][0]


def _text(name: str, description: str, example: str, **schema: object) -> Member:
    return Member(name, {"type": "string", "description": description, **schema, "examples": [example]})


def _number(name: str, description: str, example: int) -> Member:
    return Member(name, {"type": "integer", "description": description, "examples": [example]})


WITNESS = _text("witness", "Signed by the shop; `explain` takes it.", "eyJjb2RlIjoi…")
STARTS_AT = _text("starts_at", "When the sale opens.", "2026-11-30T09:00:00.000Z", format="date-time")
ENDED_AT = _text("ended_at", "When the sale ended.", "2026-11-30T10:00:00.000Z", format="date-time")
ORDER_ID = _text("order_id", "The order that was made then.", "00000001-0000-8000-8000-000000000001", format="uuid")
ORDER_STATUS = _text("order_status", "The status that the order has.", "cancelled")
REASON = _text("reason", "The word of the ledger.", "UNITS_TAKEN")
PRODUCT_ID = _number("product_id", "The product that is meant.", 1)
SALE_ID = _number("sale_id", "The sale that the statement is of.", 1)
UNITS_HELD = _number("units_held", "The units of this sale that the buyer has.", 2)
CURRENCY = _text("currency", "The currency of what was paid.", "EUR")
OPEN_ORDERS = _number("open_orders", "The buyer's ordinary orders that are reserved and not paid.", 20)
OPEN_UNITS = _number("open_units", "The units that these orders hold.", 35)
CAPTURED_MINOR = _number("captured_minor", "What was paid for the order, in minor units.", 19_900)
# What may be wrong with a part of a request; `rule` is any rule that only the `detail` tells.
VIOLATION_CODES = (
    "missing",
    "unknown",
    "type",
    "minimum",
    "maximum",
    "too_short",
    "too_long",
    "choice",
    "format",
    "rule",
)
PARTS = ("body", "path", "query", "header")
VIOLATION: Mapping[str, Any] = {
    "type": "object",
    "description": "One rule that a request breaks.",
    "required": ["in", "pointer", "code", "detail"],
    "properties": {
        "in": {"type": "string", "enum": [*PARTS], "description": "The part of the request."},
        "pointer": {
            "type": "string",
            "description": "Where in the body (RFC 6901): `/lines/0/quantity`, or empty for all of it. "
            "Of the other parts `/name`, by the name of the parameter.",
        },
        "code": {"type": "string", "enum": [*VIOLATION_CODES]},
        "detail": {"type": "string", "description": "The rule in words."},
    },
}


def violation(part: str, pointer: str, code: str, detail: str) -> dict[str, str]:
    """One entry of `errors`, as `VIOLATION` describes it."""
    return {"in": part, "pointer": pointer, "code": code, "detail": detail}


ERRORS = Member(
    "errors",
    {
        "type": "array",
        "description": "The rules that are broken, at most twenty.",
        "minItems": 1,
        "maxItems": 20,
        "items": {"$ref": "#/components/schemas/Violation"},
        "examples": [[violation("body", "/quantity", "minimum", "Must be at least 1")]],
    },
)
