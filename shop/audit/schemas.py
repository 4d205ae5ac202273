"""The result of an audit, as a value and as JSON."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class FindingRead(BaseModel):
    """What the audit that goes on by itself found wrong in a sale, when, and what shows it."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["audit_finding"] = "audit_finding"
    id: int
    epoch: int
    watermark: int
    created_at: datetime
    violations: list[str]
    evidence: dict[str, Any] = Field(description="The numbers that were compared, and some of the rows and entries.")


class AuditReport(BaseModel):
    """One sale at one watermark. An invariant is true, or false with a sentence in `violations` that says why.

    I1 gapless, I2 chain, I3 conservation, I4 no oversell, I5 limit, I6 an order for each reservation (numbers as in the
    design). The units are counted at the watermark; `undrained` events are already in the ledger and not yet in
    Postgres. `held_back` units wait for receipts after a recovery, `honoured` ones are of orders that a recovery has
    brought back.

    The rest tells of the audit that goes on by itself: up to `verified_seq` it has verified this epoch, `verified_at`
    was its last good snapshot, `stopped_at` says since when it keeps the sale closed. The newest findings come first.
    """

    object: Literal["audit"] = "audit"
    sale_id: int
    epoch: int
    watermark: int
    ledger_seq: int
    undrained: int
    units: int
    available: int
    held: int
    paid: int
    closing: int
    kept: int
    held_back: int
    honoured: int
    quarantined: int
    invariants: dict[str, bool]
    violations: list[str]
    verified_seq: int | None
    verified_at: datetime | None
    stopped_at: datetime | None
    findings: list[FindingRead]

    @property
    def balanced(self) -> bool:
        """Whether every invariant holds."""
        return all(self.invariants.values())
