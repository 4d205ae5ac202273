"""Child processes: a program beside ours, and a pool of workers that is kept complete, renewed and ended."""

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
from shop.stopping import end_tasks

BEAT_SECONDS = 1.0
SILENT_BEATS_MAX = 10
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
    """Let a process of a pool be asked to end when the one that keeps the pool is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


class Lifeline:
    """What a process of a pool tells its keeper: about once a second that it serves, and that it is leaving."""

    def __init__(self, writer: Connection) -> None:
        os.set_blocking(writer.fileno(), False)
        self._writer = writer

    def serving(self) -> None:
        """Say it often: who is silent for too long is taken for stuck."""
        self._tell(SERVING)

    def leaving(self) -> None:
        """Say it before the last work is done: the successor starts at once."""
        self._tell(LEAVING)

    def _tell(self, word: bytes) -> None:
        with suppress(OSError):  # Of a keeper that was stopped; that it is gone is seen by `die_with_parent`.
            os.write(self._writer.fileno(), word)


class _Member:
    """A process of a pool, as its keeper knows it; `serves` becomes False when it ends before it ever served."""

    def __init__(self, process: BaseProcess, reader: Connection) -> None:
        loop = asyncio.get_running_loop()
        self.process = process
        self.reader = reader
        self.started_at = loop.time()
        self.silent_beats = 0
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
        """Whether it has been silent for too long; one that is leaving is given its time by others."""
        beats = SILENT_BEATS_MAX if self.serves.done() else START_SECONDS_MAX / BEAT_SECONDS
        return self.silent_beats > beats and not self.leaves.done()


class ProcessPool:
    """Keeps one process in each place until SIGTERM or SIGINT; a second SIGINT kills them.

    Each runs `work(lifeline, *arguments[place])` and must end on SIGTERM, which it also gets when this process is gone;
    after `stop_seconds_max` it is killed. One that ends, leaves or is stuck gets a successor; SIGHUP gives one to all,
    place after place, and each ends when its successor serves. They are forked from a server that has imported
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
        self._places: list[_Member] = []
        self._living: set[_Member] = set()
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
            await end_tasks({keeping, stopping})
            self._before_stop()
            await self._end(list(self._living))
        if not keeping.cancelled():
            keeping.result()  # Raises what went wrong in it, if anything did.
            return 0 if self._stopping.is_set() else START_FAILED
        return INTERRUPTED if self._interrupted else 0

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping.is_set() and number == signal.SIGINT:
            self._interrupted = True
            for member in self._living:
                member.send(signal.SIGKILL)
        self._stopping.set()

    async def _keep_all(self) -> None:
        """Keep every place taken; returns only when a process cannot start."""
        self._places = [self._start(place) for place in range(len(self._arguments))]
        if not all([await self._serves(member) for member in self._places]):
            return
        async with asyncio.TaskGroup() as group:
            for place in range(len(self._places)):
                group.create_task(self._keep(place))
            group.create_task(self._renew_when_asked())
            group.create_task(self._kill_the_stuck())

    async def _keep(self, place: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            member = self._places[place]
            await asyncio.wait({member.leaves})
            await asyncio.sleep(member.started_at + RESTART_SECONDS_MIN - loop.time())
            if self._places[place] is member:
                self._places[place] = self._start(place)

    async def _renew_when_asked(self) -> None:
        while True:
            await self._renewal.wait()
            self._renewal.clear()
            for place in range(len(self._places)):
                successor = self._start(place)
                if not await self._serves(successor):
                    log.error("renewal_failed", pid=successor.process.pid)
                    await self._end([successor])
                    break
                predecessor, self._places[place] = self._places[place], successor
                await self._end([predecessor])

    async def _kill_the_stuck(self) -> None:
        # Beats are counted, not seconds: when all were stopped together, nobody was silent.
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            for member in self._living:
                member.silent_beats += 1
                if member.stuck:
                    log.error("process_stuck", pid=member.process.pid)
                    member.send(signal.SIGKILL)

    def _start(self, place: int) -> _Member:
        reader, writer = multiprocessing.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(self._work, writer, *self._arguments[place]))
        member = _Member(process, reader)
        try:
            process.start()
        except (OSError, EOFError) as error:  # Its end is seen at once, and it is tried again.
            log.error("process_not_started", error=repr(error))
        writer.close()
        asyncio.get_running_loop().add_reader(reader.fileno(), self._hear, member)
        self._living.add(member)
        return member

    async def _serves(self, member: _Member) -> bool:
        """Whether it has come to serve, within a limit."""
        await asyncio.wait({member.serves}, timeout=START_SECONDS_MAX)
        return member.serves.done() and member.serves.result()

    async def _end(self, members: Collection[_Member]) -> None:
        """Ask them to end and wait; kill those that take too long."""
        for number, seconds in ((signal.SIGTERM, self._stop_seconds_max), (signal.SIGKILL, None)):
            for member in members:
                member.send(number)
            if members:
                await asyncio.wait({member.ended for member in members}, timeout=seconds)

    def _hear(self, member: _Member) -> None:
        """Take note of what it tells; the end of the line is its own end."""
        words = os.read(member.reader.fileno(), READ_BYTES)
        member.silent_beats = 0
        if SERVING in words and not member.serves.done():
            log.info("process_serves", pid=member.process.pid)
            member.serves.set_result(True)
        if LEAVING in words:
            _settle(member.leaves, None)
        if not words:
            self._bury(member)

    def _bury(self, member: _Member) -> None:
        asyncio.get_running_loop().remove_reader(member.reader.fileno())
        member.reader.close()
        if member.process.pid is not None:
            member.process.join(STATUS_SECONDS_MAX)
            status = member.process.exitcode
            unforeseen = status and not self._stopping.is_set()
            (log.warning if unforeseen else log.info)("process_ended", pid=member.process.pid, status=status)
        self._living.discard(member)
        _settle(member.serves, False)
        _settle(member.leaves, None)
        _settle(member.ended, None)


def _work(work: Callable[..., None], writer: Connection, *arguments: Any) -> None:
    die_with_parent()
    work(Lifeline(writer), *arguments)


def _settle(future: "asyncio.Future[Any]", value: object) -> None:
    if not future.done():
        future.set_result(value)
