"""The pages of the metrics' own port: the metrics of all processes, and why the shop is not ready, with every detail.

The metrics are right whatever the processes that have died left behind.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from shop.metrics import MULTIPROCESS_VARIABLE

PAGE_CONNECTIONS_MAX = 16
PAGE_SECONDS_MAX = 5.0
FILES_UNREADABLE = "shop_metrics_files_unreadable"

# A page that answers in JSON: whether all is well (else 503), and the object.
JsonPage = Callable[[], tuple[bool, object]]
Application = Callable[[dict[str, Any], Callable[..., Any]], list[bytes]]

log = structlog.get_logger(__name__)


class _LivingProcesses(MultiProcessCollector):  # type: ignore[misc, unused-ignore]
    """The sum over the processes, without the gauges of those that have died, and without files that cannot be read.

    A process that is killed while it makes or writes its file leaves an empty or a broken one. Nobody will write what
    is missing there, so such a file goes with its process.
    """

    def __init__(self, registry: CollectorRegistry, directory: Path) -> None:
        super().__init__(registry, str(directory))  # type: ignore[no-untyped-call]
        self._directory = directory
        self._told: set[Path] = set()

    def collect(self):  # type: ignore[no-untyped-def]
        readable, unreadable = [], 0
        for file in sorted(self._directory.glob("*.db")):
            dead = (pid := _pid_of(file)) is not None and not _alive(pid)
            if dead and file.name.startswith("gauge_live"):
                file.unlink(missing_ok=True)
            elif (reason := _unreadable(file)) is None:
                readable.append(str(file))
            else:
                unreadable += 1
                self._tell(file, reason)
                if dead:
                    file.unlink(missing_ok=True)
        yield GaugeMetricFamily(FILES_UNREADABLE, "Processes' files that the page does without.", value=unreadable)
        yield from self.merge(readable)  # type: ignore[no-untyped-call]

    def _tell(self, file: Path, reason: Exception) -> None:
        if file not in self._told:
            self._told.add(file)
            log.error("metrics_file_unreadable", file=file.name, reason=repr(reason)[:200])


def _pid_of(file: Path) -> int | None:
    pid = file.stem.rpartition("_")[2]
    return int(pid) if pid.isdecimal() else None


def _unreadable(file: Path) -> Exception | None:
    """Why the library would fail with this file, or read it for ever; None if it would not."""
    end = 0
    try:
        if _pid_of(file) is None:
            raise ValueError("the name says no process")
        for key, _, _, position in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            if position <= end:
                raise ValueError("the values follow each other backwards")
            end = position
            _, _, labels, _ = json.loads(key)
            labels.items()
    except FileNotFoundError:
        return None if file.name.startswith("gauge_live") else FileNotFoundError(file.name)
    except Exception as error:  # noqa: BLE001 - anything may stand there; it is logged and counted
        return error
    return None


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


def _json(ask: JsonPage) -> Application:
    one_at_a_time = threading.Lock()

    def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        method = environ["REQUEST_METHOD"]
        if method != "GET":
            start_response("200 OK" if method == "OPTIONS" else "405 Method Not Allowed", [("Allow", "GET")])
            return []
        with one_at_a_time:
            well, found = ask()
        start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps(found).encode()]

    return page


def _pages(registry: CollectorRegistry, others: Mapping[str, JsonPage]) -> Application:
    """The library's page, and other ones at their paths; for HEAD too."""
    library: Application = make_wsgi_app(registry)
    at = {path: _json(ask) for path, ask in others.items()}

    def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        method = environ["REQUEST_METHOD"]
        asked = {**environ, "REQUEST_METHOD": "GET" if method == "HEAD" else method}
        answer = at.get(environ["PATH_INFO"], library)
        body = b"".join(answer(asked, lambda status, headers: started.append((status, headers))))
        [(status, headers)] = started
        headers = [(name, "GET, HEAD, OPTIONS" if name == "Allow" else value) for name, value in headers]
        headers += [("Content-Length", str(len(body))), ("X-Content-Type-Options", "nosniff")]
        start_response(status, headers)
        return [] if method == "HEAD" else [body]

    return page


def serve_metrics(host: str, port: int, others: Mapping[str, JsonPage] | None = None) -> int:
    """Show the metrics on their own port, from threads, and other pages at their paths; returns the port.

    Raises OSError when it is taken.
    """
    registry = REGISTRY
    if directory := os.environ.get(MULTIPROCESS_VARIABLE):
        registry = CollectorRegistry()
        _LivingProcesses(registry, Path(directory))
    server = _PageServer((host, port), _PageHandler)
    server.set_app(_pages(registry, others or {}))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.server_port
