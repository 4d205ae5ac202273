"""The result of an audit, as a value and as JSON."""

from typing import Literal

from pydantic import BaseModel


class AuditReport(BaseModel):
    """One sale at one watermark. An invariant is true, or false with a sentence in `violations` that says why.

    I1 gapless, I2 chain, I3 conservation, I4 no oversell, I5 limit (numbers as in the design). The units are counted at
    the watermark; `undrained` events are already in the ledger and not yet in Postgres. `held_back` units wait for
    receipts after a recovery, `honoured` ones are of orders that a recovery has brought back.
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

    @property
    def balanced(self) -> bool:
        """Whether every invariant holds."""
        return all(self.invariants.values())
