"""Every metric of the shop; the page that shows them is `shop.metrics_page`.

Names carry one prefix and base units; labels are words and route templates, never ids.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter("shop_http_requests_total", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "shop_http_request_duration_seconds", "Time to answer.", ["method", "route"], buckets=SECONDS
)
GATE_REFUSALS = Counter("shop_gate_refusals_total", "Requests refused because too many of their kind wait.", ["kind"])
PURCHASES = Counter("shop_purchases_total", "Purchases by what became of them.", ["outcome"])
BATCH_REQUESTS = Histogram(
    "shop_reserve_batch_requests", "Purchases that shared one round trip.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
LIMITER_ERRORS = Counter("shop_rate_limiter_errors_total", "Requests admitted because the limiter could not be asked.")
CACHE = Counter("shop_cache_lookups_total", "Look-ups in the cache.", ["result"])
POOL_WAITING = Gauge(
    "shop_pool_callers_waiting", "Callers that wait for a connection.", ["pool"], multiprocess_mode="livesum"
)
POOL_REFUSALS = Counter(
    "shop_pool_refusals_total",
    "Callers that got no connection: too many waited, or they waited too long.",
    ["pool", "reason"],
)
for _reason in ("line_full", "waited"):
    POOL_REFUSALS.labels("postgres", _reason)
POOL_IN_USE = Gauge("shop_pool_connections_in_use", "Connections lent.", ["pool"], multiprocess_mode="livesum")
SERVER_USABLE = Gauge(
    "shop_server_usable",
    "Whether a process could use a server when it last tried.",
    ["server"],
    multiprocess_mode="livemin",
)
ORDER_LISTENERS = Gauge("shop_order_listeners", "Requests that wait for news of an order.", multiprocess_mode="livesum")
LOG_LINES_LOST = Counter("shop_log_lines_lost_total", "Lines of the log that could not be written.")
ITEM_FAILURES = Counter(
    "shop_item_failures_total", "Items of a loop that failed; the others of the loop were served.", ["loop"]
)
ITEMS_FAILING = Gauge(
    "shop_items_failing",
    "Items of a loop that failed when they were last tried, and are tried again.",
    ["loop"],
    multiprocess_mode="livesum",
)
for _loop in ("connections", "polls", "streams", "after_commit", "provider_events"):
    ITEM_FAILURES.labels(_loop)  # From the start: a counter that begins at 1 has not increased.
PERSISTED = Counter("shop_persisted_orders_total", "Orders written to Postgres.")
PERSIST_SECONDS = Histogram("shop_persist_batch_duration_seconds", "Time of one persisted batch.", buckets=SECONDS)
PERSIST_FAILURES = Counter("shop_persist_failures_total", "Batches that did not commit.", ["reason"])
RELEASED = Counter("shop_released_orders_total", "Closed orders whose units went back.")
EXPIRED = Counter("shop_expired_orders_total", "Orders whose hold ran out.")
PROVIDER_CALLS = Counter("shop_provider_calls_total", "Calls to the payment provider.", ["operation", "outcome"])
PROVIDER_SECONDS = Histogram(
    "shop_provider_call_duration_seconds", "Time of a call to the payment provider.", ["operation"], buckets=SECONDS
)
PROVIDER_BREAKER = Gauge(
    "shop_provider_breaker_open", "1 while the circuit to the payment provider is open.", multiprocess_mode="livemax"
)
STREAM_LAG = Gauge("shop_stream_lag_entries", "Events not yet in Postgres.", ["sale"], multiprocess_mode="mostrecent")
UNITS_AVAILABLE = Gauge("shop_units_available", "Units left on sale.", ["sale"], multiprocess_mode="mostrecent")
RECOVERIES = Counter("shop_recoveries_total", "Recoveries that ended, by what became of the epoch.", ["epoch"])
RECOVERIES_UNFINISHED = Gauge(
    "shop_recoveries_unfinished", "Sales that are closed for a recovery.", multiprocess_mode="mostrecent"
)
PROMISES_LOST = Gauge(
    "shop_promises_lost_at_most",
    "Accepted orders that Redis has lost and that nobody could report: at most so many.",
    multiprocess_mode="mostrecent",
)
UNITS_HELD_BACK = Gauge(
    "shop_units_held_back", "Units kept for receipts after a recovery.", ["sale"], multiprocess_mode="mostrecent"
)
ALARMS = Gauge(
    "shop_ledger_alarms", "Sales stopped because ledger and Postgres disagree.", multiprocess_mode="mostrecent"
)
CONTRADICTIONS = Counter(
    "shop_statement_contradictions_total",
    "Signed statements that the recorded ledger contradicts: a proof against the shop, somebody must look.",
    ["code"],
)
AUDIT_LAG = Gauge(
    "shop_audit_lag_events", "Events in Postgres that no audit has verified.", ["sale"], multiprocess_mode="mostrecent"
)
AUDIT_GOOD_AT = Gauge(
    "shop_audit_last_good_timestamp_seconds",
    "When an audit last saw that all of the sale is right.",
    ["sale"],
    multiprocess_mode="mostrecent",
)
AUDIT_VIOLATIONS = Counter(
    "shop_audit_violations_total", "Invariants that an audit found broken, twice in a row.", ["invariant"]
)
for _invariant in ("I1", "I2", "I3", "I4", "I5", "I6"):
    AUDIT_VIOLATIONS.labels(_invariant)
LEDGER_FOREIGN = Gauge(
    "shop_ledger_foreign", "1 when the ledger belongs to another database.", multiprocess_mode="mostrecent"
)
SALES_STOPPED = Gauge(
    "shop_sales_stopped",
    "Sales that an audit keeps closed until an operator recovers them.",
    multiprocess_mode="mostrecent",
)
OF_SALES = (STREAM_LAG, UNITS_AVAILABLE, UNITS_HELD_BACK, AUDIT_LAG, AUDIT_GOOD_AT)
PROVIDER_EVENTS = Counter("shop_provider_events_total", "Events of the payment provider by outcome.", ["outcome"])
for _outcome in ("unreadable", "failed"):
    PROVIDER_EVENTS.labels(_outcome)
REFUNDS_TAKEN_BACK = Gauge(
    "shop_refunds_taken_back",
    "Refunds that were done until the payment provider said otherwise: somebody must look.",
    multiprocess_mode="mostrecent",
)
PAYMENT_MISMATCHES = Counter(
    "shop_payment_mismatches_total", "Events whose amount, currency or order is not ours: somebody must look.", ["kind"]
)
for _kind in ("mismatch", "unknown_order", "refund_taken_back"):
    PAYMENT_MISMATCHES.labels(_kind)
PROVIDER_REFUSALS = Counter("shop_provider_refusals_total", "Requests that the provider refused.", ["operation"])
for _operation in ("create", "cancel", "refund"):
    PROVIDER_REFUSALS.labels(_operation)

CLOCK_STEPS = Counter(
    "shop_clock_steps_total", "Times that the wall clock of a process was set, by where to.", ["direction"]
)
for _direction in ("back", "forward"):
    CLOCK_STEPS.labels(_direction)
DELIVERIES = Counter(
    "shop_notification_deliveries_total",
    "Tries to deliver a notification, by what became of them.",
    ["sink", "outcome"],
)
OLDEST_UNDELIVERED = Gauge(
    "shop_notification_oldest_undelivered_seconds",
    "Age of the oldest notification that is not delivered and not given up.",
    multiprocess_mode="mostrecent",
)


@contextmanager
def watched(server: str) -> Iterator[None]:
    """Show whether this server can be used; around what a process asks it again and again anyway."""
    try:
        yield
    except Exception:
        SERVER_USABLE.labels(server).set(0)
        raise
    SERVER_USABLE.labels(server).set(1)


def add_observations(histogram: Histogram, buckets: list[int], total: float) -> None:
    """Add many observations at once: how many fell into each bucket, and their sum."""
    # The library has no call for it, and one observation at a time costs more than what is measured.
    for bucket, observations in zip(histogram._buckets, buckets, strict=True):  # noqa: SLF001
        if observations:
            bucket.inc(observations)
    histogram._sum.inc(total)  # noqa: SLF001


def forget_sale(sale_id: int) -> None:
    """Show nothing more of a sale that is over, so that the page does not grow with every sale that ever was.

    The library cannot do that where processes share a page; there it is emptied at the next start.
    """
    if MULTIPROCESS_VARIABLE in os.environ:
        return
    for gauge in OF_SALES:
        with suppress(KeyError):
            gauge.remove(str(sale_id))


def prepare_multiprocess(directory: Path) -> None:
    """Empty the directory that the processes share and name it to them; call this before any of them starts."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        file.unlink()
    os.environ[MULTIPROCESS_VARIABLE] = str(directory)
