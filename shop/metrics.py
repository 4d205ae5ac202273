"""Every metric of the shop, and the page that shows them, right with several processes.

Names carry one prefix and base units; labels are words and route templates, never ids.
"""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PAGE_CONNECTIONS_MAX = 16
PAGE_SECONDS_MAX = 5.0
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter("shop_http_requests_total", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "shop_http_request_duration_seconds", "Time to answer.", ["method", "route"], buckets=SECONDS
)
PURCHASES = Counter("shop_purchases_total", "Purchases by what became of them.", ["outcome"])
BATCH_REQUESTS = Histogram(
    "shop_reserve_batch_requests", "Purchases that shared one round trip.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
LIMITER_ERRORS = Counter("shop_rate_limiter_errors_total", "Requests admitted because the limiter could not be asked.")
CACHE = Counter("shop_cache_lookups_total", "Look-ups in the cache.", ["result"])
POOL_IN_USE = Gauge("shop_pool_connections_in_use", "Connections lent.", ["pool"], multiprocess_mode="livesum")
ORDER_LISTENERS = Gauge("shop_order_listeners", "Requests that wait for news of an order.", multiprocess_mode="livesum")
ITEM_FAILURES = Counter(
    "shop_item_failures_total", "Items of a loop that failed; the others of the loop were served.", ["loop"]
)
ITEMS_FAILING = Gauge(
    "shop_items_failing",
    "Items of a loop that failed when they were last tried, and are tried again.",
    ["loop"],
    multiprocess_mode="livesum",
)
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
    "shop_provider_breaker_open", "1 while the payment provider is left alone.", multiprocess_mode="livemax"
)
STREAM_LAG = Gauge("shop_stream_lag_entries", "Events not yet in Postgres.", ["sale"], multiprocess_mode="mostrecent")
UNITS_AVAILABLE = Gauge("shop_units_available", "Units left on sale.", ["sale"], multiprocess_mode="mostrecent")
RECOVERIES = Counter("shop_recoveries_total", "Recoveries that ended, by what became of the epoch.", ["epoch"])
RECOVERIES_UNFINISHED = Gauge(
    "shop_recoveries_unfinished", "Sales that are closed for a recovery.", multiprocess_mode="mostrecent"
)
PROMISES_LOST = Gauge(
    "shop_promises_lost_at_most",
    "Accepted orders that Redis has lost and that nobody could hand in: at most so many.",
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
    AUDIT_VIOLATIONS.labels(_invariant)  # From the start: a counter that begins at 1 has not increased.
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


class _LivingProcesses(MultiProcessCollector):  # type: ignore[misc, unused-ignore]
    """The sum over the processes, without the gauges of those that have died."""

    def __init__(self, registry: CollectorRegistry, directory: Path) -> None:
        super().__init__(registry, str(directory))  # type: ignore[no-untyped-call]
        self._directory = directory

    def collect(self):  # type: ignore[no-untyped-def]
        for file in self._directory.glob("gauge_live*_*.db"):
            if not _alive(int(file.stem.rsplit("_", 1)[1])):
                file.unlink(missing_ok=True)
        return super().collect()  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class _PageServer(ThreadingMixIn, WSGIServer):
    """A thread for each request, and not more of them than somebody who only connects could need descriptors for."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        self._free = threading.BoundedSemaphore(PAGE_CONNECTIONS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _PageHandler(WSGIRequestHandler):
    """It logs no requests, and does not wait for one for ever."""

    timeout = PAGE_SECONDS_MAX

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _page(registry: CollectorRegistry) -> Callable[[dict[str, Any], Callable[..., Any]], list[bytes]]:
    """The library's page, for HEAD too."""
    library = make_wsgi_app(registry)

    def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        method = environ["REQUEST_METHOD"]
        asked = {**environ, "REQUEST_METHOD": "GET" if method == "HEAD" else method}
        body = b"".join(library(asked, lambda status, headers: started.append((status, headers))))
        [(status, headers)] = started
        headers = [(name, "GET, HEAD, OPTIONS" if name == "Allow" else value) for name, value in headers]
        headers += [("Content-Length", str(len(body))), ("X-Content-Type-Options", "nosniff")]
        start_response(status, headers)
        return [] if method == "HEAD" else [body]

    return page


def serve_metrics(host: str, port: int) -> int:
    """Show the metrics on their own port, from a thread; returns the port. Raises OSError when it is taken."""
    registry = REGISTRY
    if directory := os.environ.get(MULTIPROCESS_VARIABLE):
        registry = CollectorRegistry()
        _LivingProcesses(registry, Path(directory))
    server = _PageServer((host, port), _PageHandler)
    server.set_app(_page(registry))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.server_port
