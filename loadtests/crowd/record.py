"""What a crowd was told: every attempt with its answer, the file that keeps it, and its figures."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from loadtests.client.answers import (
    BARE,
    NOT_ENOUGH_UNITS,
    OVER_LIMIT,
    RESERVED,
    SALE_ENDED,
    SALE_NOT_STARTED,
    SOLD_OUT,
)
from loadtests.client.http import ConnectError

HUNG_UP = "hung_up"
UNANSWERED = "unanswered"


class Attempt(NamedTuple):
    """One request and what came of it. The times are `time.monotonic()` of the crowd's process.

    `status` is 0 when there was no answer; `code` then says why. With an order it is `reserved` or `replayed`, else the
    refusal's own code, or `http_` and the status for an answer that has none.
    """

    shopper: int
    user_id: str
    key: str | None
    status: int
    code: str
    order_id: str | None
    sent_at: float
    received_at: float

    @property
    def unknown(self) -> bool:
        """Whether the shop may or may not have executed it. A 503 counts as a refusal only in the shop's own words."""
        if self.order_id is not None or self.code == ConnectError.code:
            return False
        if self.status == 503:
            return self.code.startswith(BARE)
        return self.status < 300 or self.status >= 500

    @property
    def final(self) -> bool:
        """Whether it is a refusal that asking again would not change."""
        return 300 <= self.status < 500 and self.status != 429 and self.code != SALE_NOT_STARTED


def outcome_of_click(attempts: Sequence[Attempt]) -> str | None:
    """What a click came to, or None when it has to be repeated. As long as one half of it is unknown, a refusal of the
    other half is not the last word."""
    if any(attempt.order_id for attempt in attempts):
        return RESERVED
    if any(attempt.unknown for attempt in attempts):
        return None
    return next((attempt.code for attempt in attempts if attempt.final), None)


@dataclass(frozen=True, slots=True)
class CrowdRecord:
    """What the crowd was told. `outcomes` has one entry for each shopper: `reserved`, a code, or None when cut off.

    `complete` says that every shopper had a final answer before the deadline and before anybody stopped the run.
    """

    sale_id: int
    seed: int
    shoppers: int
    complete: bool
    elapsed_seconds: float
    outcomes: tuple[str | None, ...] = field(repr=False)
    attempts: tuple[Attempt, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CrowdSummary:
    """The figures of a record.

    `reserved`, `sold_out` (which includes too few units left), `over_limit` and `sale_ended` count shoppers by their
    final answer, `errors` all other shoppers: refused for what no fair sale refuses, or without a final answer at the
    end. `attempts`, `rate_limited` and `by_code` count requests.
    """

    shoppers: int
    attempts: int
    reserved: int
    sold_out: int
    over_limit: int
    sale_ended: int
    rate_limited: int
    errors: int
    attempts_per_second: float
    reserve_p50_ms: float | None
    reserve_p99_ms: float | None
    elapsed_seconds: float
    complete: bool
    by_code: Mapping[str, int]


def summarize(record: CrowdRecord) -> CrowdSummary:
    """Count what the crowd was told."""
    outcomes = Counter(record.outcomes)
    sold_out = outcomes[SOLD_OUT] + outcomes[NOT_ENOUGH_UNITS]
    expected = outcomes[RESERVED] + sold_out + outcomes[OVER_LIMIT] + outcomes[SALE_ENDED]
    latencies = reserve_latencies_ms(record)
    return CrowdSummary(
        shoppers=record.shoppers,
        attempts=len(record.attempts),
        reserved=outcomes[RESERVED],
        sold_out=sold_out,
        over_limit=outcomes[OVER_LIMIT],
        sale_ended=outcomes[SALE_ENDED],
        rate_limited=sum(attempt.status == 429 for attempt in record.attempts),
        errors=record.shoppers - expected,
        attempts_per_second=round(attempts_per_second(record), 1),
        reserve_p50_ms=percentile(latencies, 0.50),
        reserve_p99_ms=percentile(latencies, 0.99),
        elapsed_seconds=round(record.elapsed_seconds, 3),
        complete=record.complete,
        by_code=dict(Counter(attempt.code for attempt in record.attempts).most_common()),
    )


def attempts_per_second(record: CrowdRecord) -> float:
    """How fast the open sale was asked: from the first request that it answered, without the wait for its start."""
    answered = (a.sent_at for a in record.attempts if a.status and a.code != SALE_NOT_STARTED)
    begin = min(answered, default=math.inf)
    received = [attempt.received_at for attempt in record.attempts if attempt.sent_at >= begin]
    return len(received) / max(max(received) - begin, 1e-6) if received else 0.0


def reserve_latencies_ms(record: CrowdRecord) -> list[float]:
    """From the last byte sent to the answer that reserved, in order of size; the wait for a connection is not in it."""
    return sorted((a.received_at - a.sent_at) * 1000 for a in record.attempts if a.code == RESERVED)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest of the ordered values that is not below this share of them (nearest rank); None without values."""
    return round(ordered[math.ceil(share * len(ordered)) - 1], 3) if ordered else None


def write_record(path: Path, record: CrowdRecord) -> None:
    """Write JSON lines: the record without its attempts, then one array for each attempt."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        file.write(encoder.encode(replace(record, attempts=())) + b"\n")
        file.write(encoder.encode_lines(record.attempts))


def read_record(path: Path) -> CrowdRecord:
    """Read what `write_record` wrote. Raises msgspec.DecodeError."""
    with path.open("rb") as file:
        head = msgspec.json.decode(file.readline(), type=CrowdRecord)
        decoder = msgspec.json.Decoder(Attempt)
        return replace(head, attempts=tuple(map(decoder.decode, file)))
