"""The crowd: thousands of shoppers who all want one unit of one sale, and the record of every answer they got.

The seed decides who clicks twice, who hangs up and who sends no key; when things happen is up to the machine. The crowd
only asks and writes down: whether it was told the truth is for `loadtests.verify` to say.
"""

import asyncio
import gc
import itertools
import math
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from loadtests.http import Address, AnswerUnreadableError, ConnectError, HttpError, Pool, Response

HUNG_UP = "hung_up"
UNANSWERED = "unanswered"
RESERVED = "reserved"
REPLAYED = "replayed"
SALE_NOT_STARTED = "sale_not_started"
SOLD_OUT = "sold_out"
OVER_LIMIT = "over_limit"
SALE_ENDED = "sale_ended"
BARE = "http_"

PROGRESS_INTERVAL_SECONDS = 0.1
BODY = b'{"quantity": 1}'


@dataclass(frozen=True, slots=True)
class RushPlan:
    """What the crowd is to do. `tokens` are pairs (user id, token), one for each shopper.

    The shares are of all shoppers, each drawn by itself: one shopper may click twice and hang up and send no key.
    """

    base_url: str
    sale_id: int
    tokens: Sequence[tuple[str, str]]
    seed: int = 1
    connections: int = 256
    timeout_seconds: float = 120.0
    connect_timeout_seconds: float = 5.0
    request_timeout_seconds: float = 10.0
    # A shopper never asks again sooner than the minimum, which with the timeout bounds the length of the record.
    pause_min_seconds: float = 0.1
    pause_max_seconds: float = 2.0
    double_click_share: float = 0.10
    hang_up_share: float = 0.02
    keyless_share: float = 0.20


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
class Progress:
    """The run so far. `reserved` and `answered` count shoppers, `by_code` counts attempts."""

    elapsed_seconds: float
    shoppers: int
    answered: int
    reserved: int
    attempts: int
    by_code: Mapping[str, int]


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


@dataclass(frozen=True, slots=True)
class Shopper:
    """One of the crowd and what is peculiar about it. The key is the same for all its attempts."""

    index: int
    user_id: str
    token: str
    key: str | None
    clicks_twice: bool
    hangs_up: bool


async def rush(
    plan: RushPlan, on_progress: Callable[[Progress], None], *, stop: asyncio.Event | None = None
) -> CrowdRecord:
    """Let all shoppers loose at once and return when each has a final answer, at the deadline, or on `stop`.

    `on_progress` is called ten times a second and once at the end; it must not block. What it raises ends the run.
    """
    crowd = _Crowd(plan)
    shopping = asyncio.create_task(crowd.shop())
    reporting = asyncio.create_task(_report(crowd, on_progress))
    stopping = asyncio.create_task((stop or asyncio.Event()).wait())
    tasks = [shopping, reporting, stopping]
    try:
        done, _ = await asyncio.wait(tasks, timeout=plan.timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        crowd.close()
    for task in done:
        task.result()
    on_progress(crowd.progress())
    return crowd.record(complete=shopping in done)


def shoppers_of(plan: RushPlan) -> list[Shopper]:
    """The crowd of a plan: with the same seed always the same, and the shares exact."""
    everyone = range(len(plan.tokens))
    # Not a secret, and it must be repeatable.
    draw = random.Random(plan.seed)  # noqa: S311
    twice, hanging_up, keyless = (
        frozenset(draw.sample(everyone, round(share * len(everyone))))
        for share in (plan.double_click_share, plan.hang_up_share, plan.keyless_share)
    )
    return [
        Shopper(
            index=index,
            user_id=user_id,
            token=token,
            key=None if index in keyless else f"rush-{plan.seed}-{index}",
            clicks_twice=index in twice,
            hangs_up=index in hanging_up,
        )
        for index, (user_id, token) in enumerate(plan.tokens)
    ]


def summarize(record: CrowdRecord) -> CrowdSummary:
    """Count what the crowd was told."""
    outcomes = Counter(record.outcomes)
    sold_out = outcomes[SOLD_OUT] + outcomes["not_enough_units"]
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


def read_tokens(path: Path) -> list[tuple[str, str]]:
    """Read lines of `user_id token`. Raises ValueError that names the line which is something else."""
    pairs = []
    for number, line in enumerate(path.read_text("ascii").splitlines(), 1):
        match line.split():
            case [user_id, token]:
                pairs.append((user_id, token))
            case []:
                continue
            case _:
                raise ValueError(f"{path}:{number}: expected `user_id token`")
    if not pairs:
        raise ValueError(f"{path}: no tokens")
    return pairs


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


class _Crowd:
    """What the shoppers of one run share: the connections, the record and its tally."""

    def __init__(self, plan: RushPlan) -> None:
        self._plan = plan
        self._address = Address.of(plan.base_url)
        self._pool = Pool(self._address, size=plan.connections, connect_timeout_seconds=plan.connect_timeout_seconds)
        self._jitter = random.Random(plan.seed)  # noqa: S311 - spreads the retries, decides nothing
        self._began = time.monotonic()
        self._attempts: list[Attempt] = []
        self._by_code: Counter[str] = Counter()
        self._outcomes: list[str | None] = [None] * len(plan.tokens)
        self._answered = 0
        self._reserved = 0

    async def shop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for shopper in shoppers_of(self._plan):
                group.create_task(self._shop(shopper))

    def progress(self) -> Progress:
        return Progress(
            elapsed_seconds=round(time.monotonic() - self._began, 3),
            shoppers=len(self._outcomes),
            answered=self._answered,
            reserved=self._reserved,
            attempts=len(self._attempts),
            by_code=dict(self._by_code),
        )

    def record(self, *, complete: bool) -> CrowdRecord:
        return CrowdRecord(
            sale_id=self._plan.sale_id,
            seed=self._plan.seed,
            shoppers=len(self._outcomes),
            complete=complete,
            elapsed_seconds=time.monotonic() - self._began,
            outcomes=tuple(self._outcomes),
            attempts=tuple(self._attempts),
        )

    def close(self) -> None:
        self._pool.close()

    async def _shop(self, shopper: Shopper) -> None:
        """Ask until the answer is final. Who hangs up or clicks twice does so again when the sale had not started."""
        request = self._request(shopper)
        early = True
        for tries in itertools.count():
            if shopper.hangs_up and early:
                await self._hang_up(shopper, request)
            clicks = [self._ask(shopper, request) for _ in range(2 if shopper.clicks_twice else 1)]
            answers = await asyncio.gather(*clicks) if len(clicks) > 1 else [await clicks[0]]
            if outcome := _outcome([attempt for attempt, _ in answers]):
                self._settle(shopper, outcome)
                return
            early = any(attempt.code == SALE_NOT_STARTED for attempt, _ in answers)
            await asyncio.sleep(max(self._pause(wait_seconds, tries) for _, wait_seconds in answers))

    async def _ask(self, shopper: Shopper, request: bytes) -> tuple[Attempt, float | None]:
        """Send one request; the second value is how many seconds the shop wants to be left alone, if it said so."""
        sent_at = None
        try:
            connection = await self._pool.borrow()
            try:
                sent_at = time.monotonic()
                response = await connection.exchange(request, timeout_seconds=self._plan.request_timeout_seconds)
            finally:
                self._pool.give_back(connection)
        except HttpError as error:
            return self._note(shopper, sent_at, 0, error.code), None
        except asyncio.CancelledError:
            if sent_at is not None:
                self._note(shopper, sent_at, 0, UNANSWERED)
            raise
        answer = _read(response)
        return self._note(shopper, sent_at, response.status, answer.code, answer.order_id), answer.wait_seconds

    async def _hang_up(self, shopper: Shopper, request: bytes) -> None:
        code = HUNG_UP
        try:
            connection = await self._pool.borrow()
            try:
                connection.send_and_close(request)
            finally:
                self._pool.give_back(connection)
        except HttpError as error:
            code = error.code
        self._note(shopper, None, 0, code)

    def _note(
        self, shopper: Shopper, sent_at: float | None, status: int, code: str, order_id: str | None = None
    ) -> Attempt:
        now = time.monotonic()
        sent_at = now if sent_at is None else sent_at
        attempt = Attempt(shopper.index, shopper.user_id, shopper.key, status, code, order_id, sent_at, now)
        self._attempts.append(attempt)
        self._by_code[code] += 1
        return attempt

    def _settle(self, shopper: Shopper, outcome: str) -> None:
        self._outcomes[shopper.index] = outcome
        self._answered += 1
        self._reserved += outcome == RESERVED

    def _pause(self, wait_seconds: float | None, tries: int) -> float:
        """What the shop asked for, which it has jittered itself; else twice as long each time, jittered here."""
        plan = self._plan
        if wait_seconds is not None:
            return max(wait_seconds, plan.pause_min_seconds)
        grown = min(plan.pause_min_seconds * 2.0 ** min(tries, 16), plan.pause_max_seconds)
        return max(grown * self._jitter.uniform(0.5, 1.0), plan.pause_min_seconds)

    def _request(self, shopper: Shopper) -> bytes:
        headers = {"Authorization": f"Bearer {shopper.token}", "Content-Type": "application/json"}
        if shopper.key is not None:
            headers["Idempotency-Key"] = shopper.key
        path = f"/v1/seckill/sales/{self._plan.sale_id}/orders"
        return self._address.request("POST", path, headers=headers, body=BODY)


class _Members(msgspec.Struct, gc=False):
    """What the crowd reads of an order or of a problem document."""

    id: str | None = None
    code: str | None = None
    starts_at: str | None = None


class _Answer(NamedTuple):
    code: str
    order_id: str | None
    wait_seconds: float | None


_members = msgspec.json.Decoder(_Members)


def _read(response: Response) -> _Answer:
    """Understand an answer as far as a shopper needs it."""
    try:
        members = _members.decode(response.body)
    except msgspec.DecodeError:
        members = _Members()
    if 200 <= response.status < 300:
        if not members.id:
            return _Answer(AnswerUnreadableError.code, None, None)
        return _Answer(REPLAYED if response.status == 200 else RESERVED, members.id, None)
    code = members.code or f"{BARE}{response.status}"
    wait_seconds = _retry_after(response)
    if code == SALE_NOT_STARTED and members.starts_at:
        wait_seconds = _seconds_until(members.starts_at) or wait_seconds
    return _Answer(code, None, wait_seconds)


def _retry_after(response: Response) -> float | None:
    value = response.headers.get(b"retry-after", b"")
    return float(value) if value.isdigit() else None


def _seconds_until(moment: str) -> float | None:
    """None for a moment that has passed: a shop that says "not yet" then has a slower clock, and knows better."""
    try:
        seconds = (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return seconds if seconds > 0 else None


def _outcome(attempts: Sequence[Attempt]) -> str | None:
    """What a click came to, or None when it has to be repeated. As long as one half of it is unknown, a refusal of the
    other half is not the last word."""
    if any(attempt.order_id for attempt in attempts):
        return RESERVED
    if any(attempt.unknown for attempt in attempts):
        return None
    return next((attempt.code for attempt in attempts if attempt.final), None)


async def _report(crowd: _Crowd, on_progress: Callable[[Progress], None]) -> None:
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL_SECONDS)
        on_progress(crowd.progress())


app = typer.Typer(add_completion=False)

EXAMPLE = "Example: python -m loadtests.rush --base-url http://127.0.0.1:8000 --sale 1 --tokens tokens.txt --seed 7"


@app.command(epilog=EXAMPLE)
def main(
    sale: Annotated[int, typer.Option(help="The sale's id.", min=1)],
    tokens: Annotated[Path, typer.Option(help="Lines of `user_id token`, one shopper each.", exists=True)],
    base_url: Annotated[str, typer.Option(help="Where the API listens.")] = "http://127.0.0.1:8000",
    seed: Annotated[int, typer.Option(help="Decides who does what.")] = 1,
    connections: Annotated[int, typer.Option(help="Kept-alive connections that all shoppers share.", min=1)] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds until the run ends in any case.", min=0)] = 120.0,
    record: Annotated[Path | None, typer.Option(help="Where to write every answer, as JSON lines.")] = None,
) -> None:
    """Rush a sale: each shopper asks for one unit until it has a final answer.

    Writes lines of JSON: {"progress": …} while it runs, {"summary": …} at the end. An interrupt ends it early with what
    it has.
    """
    try:
        Address.of(base_url)
        plan = RushPlan(base_url, sale, read_tokens(tokens), seed, connections, timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # All that a run makes, it keeps until its end: a collection would find nothing, and costs a fifth of the time.
    gc.disable()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        result = runner.run(_rush_until_signal(plan))
    if record is not None:
        write_record(record, result)
    _write_line({"summary": summarize(result)})


async def _rush_until_signal(plan: RushPlan) -> CrowdRecord:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await rush(plan, lambda progress: _write_line({"progress": progress}), stop=stop)


def _write_line(value: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop where there is one (not on Windows)."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


if __name__ == "__main__":
    app()
