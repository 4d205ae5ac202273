"""How badly the sandbox behaves: the faults that it is told to have, and the dice that decide about each."""

import random
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SECONDS_MAX = 60.0

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=SECONDS_MAX, allow_inf_nan=False)]


class Behaviour(BaseModel):
    """Shares from 0 to 1, and seconds. By default nothing goes wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    lose_share: Share = 0.0
    """Webhooks that are never sent."""
    duplicate_share: Share = 0.0
    """Webhooks that are sent twice."""
    reorder_share: Share = 0.0
    """Webhooks that are held back until a later one of the same intent was taken, or for a second."""
    delay_seconds_min: Seconds = 0.0
    """How long a webhook is under way at least."""
    delay_seconds_max: Seconds = 0.0
    """How long a webhook is under way at most."""
    decline_share: Share = 0.0
    """Shoppers' payments that are declined instead."""
    refuse_share: Share = 0.0
    """Requests of the API that are answered with 503 before anything is done."""
    drop_reply_share: Share = 0.0
    """Requests of the API that are done, and whose connection is then cut without an answer."""
    stall_seconds: Seconds = 0.0
    """How long the answer to a request of the API is held back after it was done."""
    seed: int | None = None
    """The same seed throws the same dice: for each kind of fault a row of its own."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.delay_seconds_min > self.delay_seconds_max:
            raise ValueError("delay_seconds_min must not be above delay_seconds_max")
        return self


class Dice:
    """The dice of one behaviour."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._rows: dict[str, random.Random] = {}

    def decides(self, share: str) -> bool:
        """Whether the fault of this name happens now."""
        return self._row(share).random() < float(getattr(self._behaviour, share))

    def delay_seconds(self) -> float:
        """How long the next webhook is under way."""
        return self._row("delay").uniform(self._behaviour.delay_seconds_min, self._behaviour.delay_seconds_max)

    def _row(self, name: str) -> random.Random:
        if name not in self._rows:
            seed = self._behaviour.seed
            self._rows[name] = random.Random(None if seed is None else f"{seed} {name}")  # noqa: S311 - no secret
        return self._rows[name]
