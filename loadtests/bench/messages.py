"""What goes into the generator, a plan a line, and what comes out of it, a round a line."""

import msgspec

from loadtests.bench.requests import PolledOrders, Shoppers

OWN = "generator"


class Plan(msgspec.Struct, kw_only=True):
    """One round. Without `rate` it is a closed loop; without `seconds` it ends when all requests are answered.

    The requests are purchases, one of each of the `shoppers`; or as many reads of a page, or polls of the orders that
    are `polled`, one after the other. What is read may be known already by its tag.

    Nothing is measured in the first `warmup_seconds`. Answers that come late are waited for, at most `grace_seconds`.
    `accounts` names processes whose CPU and memory are to be read.
    """

    host: str = "127.0.0.1"
    port: int
    path: str
    shoppers: Shoppers
    reads: bool = False
    known_tag: str | None = None
    polled: PolledOrders | None = None
    connections: int
    seconds: float | None = None
    rate: float | None = None
    warmup_seconds: float = 0.0
    grace_seconds: float = 3.0
    accounts: dict[str, list[int]] = {}


class Latency(msgspec.Struct):
    """Milliseconds of the answers with one status."""

    p50: float
    p99: float
    max: float


class Round(msgspec.Struct, kw_only=True):
    """What a round measured. `statuses` counts the answers within `seconds`; `latency_ms` has the late ones as well.

    `unsent` requests of an open loop were due and found no free connection; `unanswered` ones got no answer in time;
    `lost` ones were on a connection that broke. `exhausted` tells that all requests were sent before the time was over.
    """

    seconds: float
    sent: int
    statuses: dict[str, int]
    latency_ms: dict[str, Latency]
    connections: int
    lost: int
    unsent: int
    unanswered: int
    answer_bytes: int
    exhausted: bool
    cpu_seconds: dict[str, float]
    rss_bytes: dict[str, int]

    @property
    def generator_share(self) -> float:
        """How much of its core the generator itself used."""
        return self.cpu_seconds[OWN] / self.seconds if self.seconds > 0 else 0.0
