"""Child processes: a program beside ours, and a pool of workers that is kept full, renewed and stopped."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO, Any

import structlog

from shop.embedded.process import LAUNCHER
from shop.stopping import cancel_and_wait

HEARTBEAT_SECONDS = 1.0
MISSED_HEARTBEATS_MAX = 10
START_SECONDS_MAX = 60.0
RESTART_SECONDS_MIN = 1.0
STATUS_SECONDS_MAX = 1.0
READ_BYTES = 4096
SERVING, LEAVING = b"+", b"-"

START_FAILED = 3
INTERRUPTED = 128 + signal.SIGINT

log = structlog.get_logger(__name__)


def run_beside(
    command: Sequence[str], *, environment: Mapping[str, str], output: "IO[bytes] | int", inherit: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, out of reach of the terminal's Ctrl-C, that gets SIGTERM when we end.

    It has the descriptors that it is to `inherit` under the same numbers.
    """
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), f"--parent={os.getpid()}"]
    launcher += [f"--death-signal={int(signal.SIGTERM)}", *(["--watch"] if sys.platform != "linux" else [])]
    return subprocess.Popen(  # noqa: S603 - our own program
        [*launcher, "--", *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=inherit,
        start_new_session=True,
    )


def die_with_parent() -> None:
    """Send SIGTERM to this worker of a pool when its parent is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


class ParentPipe:
    """The pipe from a worker to its parent: a heartbeat about once a second, and that the worker is leaving."""

    def __init__(self, writer: Connection) -> None:
        os.set_blocking(writer.fileno(), False)
        self._writer = writer

    def serving(self) -> None:
        """Send a heartbeat: a worker that misses too many is taken for stuck."""
        self._tell(SERVING)

    def leaving(self) -> None:
        """Send it before the last work is done: the successor starts at once."""
        self._tell(LEAVING)

    def _tell(self, word: bytes) -> None:
        with suppress(OSError):  # The parent was stopped; that it is gone is seen by `die_with_parent`.
            os.write(self._writer.fileno(), word)


class _Worker:
    """A process of a pool, as its parent sees it; `serves` becomes False when it ends before it ever served."""

    def __init__(self, process: BaseProcess, reader: Connection) -> None:
        loop = asyncio.get_running_loop()
        self.process = process
        self.reader = reader
        self.started_at = loop.time()
        self.missed_heartbeats = 0
        self.serves: asyncio.Future[bool] = loop.create_future()
        self.leaves: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.process.pid is not None and not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    @property
    def stuck(self) -> bool:
        """Whether it has missed too many heartbeats; one that is leaving has its own time limit."""
        missed_max = MISSED_HEARTBEATS_MAX if self.serves.done() else START_SECONDS_MAX / HEARTBEAT_SECONDS
        return self.missed_heartbeats > missed_max and not self.leaves.done()


class ProcessPool:
    """Keeps one worker in each slot until SIGTERM or SIGINT; a second SIGINT kills them.

    Each runs `work(parent_pipe, *arguments[slot])` and must end on SIGTERM, which it also gets when its parent is gone;
    after `stop_seconds_max` it is killed. One that ends, leaves or is stuck gets a successor; SIGHUP replaces all of
    them, slot after slot, and each ends when its successor serves. They are forked from a server that has imported
    `preload`: a successor takes no time, and this process may have threads.
    """

    def __init__(
        self,
        work: Callable[..., None],
        arguments: Sequence[tuple[Any, ...]],
        *,
        preload: Sequence[str],
        stop_seconds_max: float,
        before_stop: Callable[[], None],
    ) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._work = work
        self._arguments = arguments
        self._stop_seconds_max = stop_seconds_max
        self._before_stop = before_stop
        self._slots: list[_Worker] = []
        self._living: set[_Worker] = set()
        self._renewal = asyncio.Event()
        self._stopping = asyncio.Event()
        self._interrupted = False

    def run(self) -> int:
        """Return the exit status: 0, START_FAILED when a process ended before all have served, or INTERRUPTED."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._renewal.set)
        keeping = asyncio.create_task(self._keep_all())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait({keeping, stopping})
            self._before_stop()
            await self._end(list(self._living))
        if not keeping.cancelled():
            keeping.result()  # Raises what went wrong in it, if anything did.
            return 0 if self._stopping.is_set() else START_FAILED
        return INTERRUPTED if self._interrupted else 0

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping.is_set() and number == signal.SIGINT:
            self._interrupted = True
            for worker in self._living:
                worker.send(signal.SIGKILL)
        self._stopping.set()

    async def _keep_all(self) -> None:
        """Keep every slot filled; returns only when a worker cannot start."""
        self._slots = [self._start(slot) for slot in range(len(self._arguments))]
        if not all([await self._serves(worker) for worker in self._slots]):
            return
        async with asyncio.TaskGroup() as group:
            for slot in range(len(self._slots)):
                group.create_task(self._keep_filled(slot))
            group.create_task(self._renew_when_asked())
            group.create_task(self._kill_the_stuck())

    async def _keep_filled(self, slot: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            worker = self._slots[slot]
            await asyncio.wait({worker.leaves})
            await asyncio.sleep(worker.started_at + RESTART_SECONDS_MIN - loop.time())
            if self._slots[slot] is worker:
                self._slots[slot] = self._start(slot)

    async def _renew_when_asked(self) -> None:
        while True:
            await self._renewal.wait()
            self._renewal.clear()
            for slot in range(len(self._slots)):
                successor = self._start(slot)
                if not await self._serves(successor):
                    log.error("renewal_failed", pid=successor.process.pid)
                    await self._end([successor])
                    break
                predecessor, self._slots[slot] = self._slots[slot], successor
                await self._end([predecessor])

    async def _kill_the_stuck(self) -> None:
        # Heartbeats are counted, not seconds: when all were stopped together, nobody was silent.
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            for worker in self._living:
                worker.missed_heartbeats += 1
                if worker.stuck:
                    log.error("process_stuck", pid=worker.process.pid)
                    worker.send(signal.SIGKILL)

    def _start(self, slot: int) -> _Worker:
        reader, writer = multiprocessing.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(self._work, writer, *self._arguments[slot]))
        worker = _Worker(process, reader)
        try:
            process.start()
        except (OSError, EOFError) as error:  # Its end is seen at once, and it is tried again.
            log.error("process_not_started", error=repr(error))
        writer.close()
        asyncio.get_running_loop().add_reader(reader.fileno(), self._read_pipe, worker)
        self._living.add(worker)
        return worker

    async def _serves(self, worker: _Worker) -> bool:
        """Whether it has come to serve, within a limit."""
        await asyncio.wait({worker.serves}, timeout=START_SECONDS_MAX)
        return worker.serves.done() and worker.serves.result()

    async def _end(self, workers: Collection[_Worker]) -> None:
        """Ask them to end and wait; kill those that take too long."""
        for number, seconds in ((signal.SIGTERM, self._stop_seconds_max), (signal.SIGKILL, None)):
            for worker in workers:
                worker.send(number)
            if workers:
                await asyncio.wait({worker.ended for worker in workers}, timeout=seconds)

    def _read_pipe(self, worker: _Worker) -> None:
        """Read what the worker has sent; the end of the pipe is the end of the worker."""
        words = os.read(worker.reader.fileno(), READ_BYTES)
        worker.missed_heartbeats = 0
        if SERVING in words and not worker.serves.done():
            log.info("process_serves", pid=worker.process.pid)
            worker.serves.set_result(True)
        if LEAVING in words:
            _resolve(worker.leaves, None)
        if not words:
            self._reap(worker)

    def _reap(self, worker: _Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.reader.fileno())
        worker.reader.close()
        if worker.process.pid is not None:
            worker.process.join(STATUS_SECONDS_MAX)
            status = worker.process.exitcode
            unforeseen = status and not self._stopping.is_set()
            (log.warning if unforeseen else log.info)("process_ended", pid=worker.process.pid, status=status)
        self._living.discard(worker)
        _resolve(worker.serves, False)
        _resolve(worker.leaves, None)
        _resolve(worker.ended, None)


def _work(work: Callable[..., None], writer: Connection, *arguments: Any) -> None:
    die_with_parent()
    work(ParentPipe(writer), *arguments)


def _resolve(future: "asyncio.Future[Any]", value: object) -> None:
    if not future.done():
        future.set_result(value)
