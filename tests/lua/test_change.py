"""`change.lua`: the numbered changes of a sale, each once, in order, and each with exactly one event."""

from typing import Any

import pytest
import redis.asyncio as aioredis

from shop.ledger.client import Answer
from shop.redis import NotSent
from tests.lua.ledgers import NOON_MS, Ledger, begun_ledger, everything, open_ledger, sale_of_tests

HOUR_MS = 3_600_000


async def ledger_at_noon(redis: aioredis.Redis, **fields: int | str) -> Ledger:
    """A ledger whose window is the hour around noon; its scripts are run with `change_at`."""
    ledger = await open_ledger(redis)
    await ledger.set(starts_ms=NOON_MS - HOUR_MS, ends_ms=NOON_MS + HOUR_MS)
    await ledger.set(**fields)
    return ledger


async def change_at(ledger: Ledger, clock_ms: int, n: int, kind: str, first: Any = "", second: Any = "") -> str:
    """The bare answer to a change at a moment."""
    reply = await ledger.run_at(clock_ms, "change", ledger.sale.epoch, n, kind, first, second)
    assert len(reply) == 1
    answer: str = reply[0].decode()
    return answer


async def last_event(ledger: Ledger) -> tuple[int, dict[str, str]]:
    """The newest entry of the stream, decoded."""
    seq, fields = (await ledger.events())[-1]
    return seq, {name.decode(): value.decode() for name, value in fields.items()}


async def test_an_applied_change_moves_the_ledger_and_writes_its_event_in_one_step(redis: aioredis.Redis) -> None:
    """APPLIED seq balance: the event closes the row of the change (I1, I2)."""
    ledger = await ledger_at_noon(redis, available=10)
    before = await ledger.fields()

    assert await change_at(ledger, NOON_MS, 1, "units", 5) == "APPLIED 1 15"

    assert await ledger.fields() == {**before, "available": "15", "seq": "1", "applied": "1"}
    assert await ledger.events() == [
        (
            1,
            {
                b"kind": b"units",
                b"change": b"1",
                b"outcome": b"applied",
                b"delta": b"5",
                b"balance": b"15",
                b"at": str(NOON_MS).encode(),
            },
        )
    ]


async def test_a_refused_change_writes_its_event_and_moves_nothing_else(redis: aioredis.Redis) -> None:
    """REFUSED seq reason: its number is used up, so that the next change can follow."""
    ledger = await ledger_at_noon(redis, available=10)
    before = await ledger.fields()

    assert await change_at(ledger, NOON_MS, 1, "units", -11) == "REFUSED 1 too_few_units"

    assert await ledger.fields() == {**before, "seq": "1", "applied": "1"}
    assert await last_event(ledger) == (
        1,
        {
            "kind": "units",
            "change": "1",
            "outcome": "too_few_units",
            "delta": "0",
            "balance": "10",
            "at": str(NOON_MS),
        },
    )
    assert await change_at(ledger, NOON_MS, 2, "units", -10) == "APPLIED 2 0"


async def test_a_change_is_applied_once_however_often_it_is_asked(redis: aioredis.Redis) -> None:
    """ALREADY: a lost reply or a second controller repeats it without effect."""
    ledger = await open_ledger(redis, available=10)
    assert (await ledger.change(1, "units", 5)).word == "APPLIED"
    assert (await ledger.change(2, "units", -100)).word == "REFUSED"
    before = await everything(redis)

    for n, delta in ((1, 5), (2, -100), (1, 7), (2, 7), (0, 7), (-1, 7)):
        assert await ledger.change(n, "units", delta) == Answer("ALREADY")
    assert await everything(redis) == before


@pytest.mark.parametrize("n", [3, 4, 100])
async def test_a_change_that_leaves_one_out_is_a_gap_and_writes_nothing(redis: aioredis.Redis, n: int) -> None:
    """GAP names the last one that was applied."""
    ledger = await open_ledger(redis)
    await ledger.change(1, "pause")
    before = await everything(redis)

    assert await ledger.change(n, "resume") == Answer("GAP", ("1",))
    assert await everything(redis) == before


async def test_changes_and_orders_share_one_sequence(redis: aioredis.Redis) -> None:
    """Each change has exactly one event, applied or not (I1)."""
    ledger = await open_ledger(redis, available=2)
    await ledger.buy((1, "ann", 1))
    await ledger.change(1, "units", 3)
    await ledger.buy((2, "bob", 1))
    await ledger.change(2, "units", -4)
    await ledger.give_back((1, 1))
    await ledger.change(3, "close")

    events = [(seq, event[b"kind"], event[b"delta"], event[b"balance"]) for seq, event in await ledger.events()]
    assert events == [
        (1, b"reserved", b"-1", b"1"),
        (2, b"units", b"3", b"4"),
        (3, b"reserved", b"-1", b"3"),
        (4, b"units", b"0", b"3"),
        (5, b"released", b"1", b"4"),
        (6, b"close", b"0", b"4"),
    ]
    assert await ledger.numbers("applied", "seq") == (3, 6)


async def test_a_pause_stops_the_sale_and_a_resume_starts_it_again(redis: aioredis.Redis) -> None:
    """Twice is the same as once; each still has its event."""
    ledger = await open_ledger(redis)
    for n, kind, state in (
        (1, "pause", "paused"),
        (2, "pause", "paused"),
        (3, "resume", "open"),
        (4, "resume", "open"),
    ):
        assert await ledger.change(n, kind) == Answer("APPLIED", (str(n), "10"))
        assert (await ledger.fields())["state"] == state
        [answer] = await ledger.buy((0, "ann", 99))
        assert answer.word == ("PAUSED" if state == "paused" else "SOLD_OUT")
    assert [seq for seq, _ in await ledger.events()] == [1, 2, 3, 4]


@pytest.mark.parametrize("state", ["open", "paused"])
@pytest.mark.parametrize(
    ("clock_ms", "first", "second", "answer"),
    [
        # Before the start both ends move.
        (NOON_MS - HOUR_MS - 1, NOON_MS, NOON_MS + 1, "APPLIED 1 10"),
        (NOON_MS - HOUR_MS - 1, NOON_MS - 3 * HOUR_MS, NOON_MS - 2 * HOUR_MS, "APPLIED 1 10"),
        # From the first millisecond on the start stands, and the end still moves.
        (NOON_MS - HOUR_MS, NOON_MS, NOON_MS + 1, "REFUSED 1 started"),
        (NOON_MS - HOUR_MS, NOON_MS - HOUR_MS - 1, NOON_MS + HOUR_MS, "REFUSED 1 started"),
        (NOON_MS - HOUR_MS, NOON_MS - HOUR_MS, NOON_MS + 9 * HOUR_MS, "APPLIED 1 10"),
        (NOON_MS, NOON_MS - HOUR_MS, NOON_MS - HOUR_MS + 1, "APPLIED 1 10"),
        # What is no window is none at any time.
        (NOON_MS - HOUR_MS - 1, NOON_MS, NOON_MS, "REFUSED 1 not_a_window"),
        (NOON_MS, NOON_MS + 1, NOON_MS, "REFUSED 1 not_a_window"),
        (NOON_MS, "", NOON_MS, "REFUSED 1 not_a_window"),
        (NOON_MS, NOON_MS, "", "REFUSED 1 not_a_window"),
        (NOON_MS, "soon", "later", "REFUSED 1 not_a_window"),
    ],
)
async def test_the_start_moves_only_before_it_and_the_end_until_the_sale_has_ended(
    redis: aioredis.Redis, state: str, clock_ms: int, first: int | str, second: int | str, answer: str
) -> None:
    ledger = await ledger_at_noon(redis, state=state)
    before = await ledger.fields()

    assert await change_at(ledger, clock_ms, 1, "window", first, second) == answer

    moved = {"starts_ms": str(first), "ends_ms": str(second)} if answer.startswith("APPLIED") else {}
    assert await ledger.fields() == {**before, **moved, "seq": "1", "applied": "1"}


async def test_the_window_of_a_change_counts_by_the_skewed_clock(redis: aioredis.Redis) -> None:
    ledger = await ledger_at_noon(redis, skew_ms=HOUR_MS)
    starts_ms = NOON_MS - HOUR_MS

    assert await change_at(ledger, starts_ms - HOUR_MS, 1, "window", NOON_MS, NOON_MS + 1) == "REFUSED 1 started"
    assert await change_at(ledger, starts_ms - HOUR_MS - 1, 2, "window", NOON_MS, NOON_MS + 1) == "APPLIED 2 10"
    assert (await last_event(ledger))[1]["at"] == str(starts_ms - 1)


@pytest.mark.parametrize(
    ("clock_ms", "starts_ms", "ends_ms"),
    [
        (NOON_MS, NOON_MS - HOUR_MS, NOON_MS),
        # Before the start the window becomes one millisecond that is over.
        (NOON_MS - 2 * HOUR_MS, NOON_MS - 2 * HOUR_MS - 1, NOON_MS - 2 * HOUR_MS),
        (NOON_MS - HOUR_MS, NOON_MS - HOUR_MS - 1, NOON_MS - HOUR_MS),
        # A close never makes the sale longer.
        (NOON_MS + 2 * HOUR_MS, NOON_MS - HOUR_MS, NOON_MS + HOUR_MS),
    ],
)
async def test_a_close_ends_the_window_now_and_leaves_the_units_to_the_end(
    redis: aioredis.Redis, clock_ms: int, starts_ms: int, ends_ms: int
) -> None:
    ledger = await ledger_at_noon(redis)
    before = await ledger.fields()

    assert await change_at(ledger, clock_ms, 1, "close") == "APPLIED 1 10"

    moved = {"starts_ms": str(starts_ms), "ends_ms": str(ends_ms)}
    assert await ledger.fields() == {**before, **moved, "seq": "1", "applied": "1"}
    assert await change_at(ledger, max(clock_ms, ends_ms), 2, "end") == "APPLIED 2 0"


async def test_nothing_is_sold_after_a_close(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis)
    await ledger.change(1, "close")

    assert [answer.word for answer in await ledger.buy((1, "ann", 1))] == ["ENDED"]


@pytest.mark.parametrize(
    ("delta", "answer", "available"),
    [
        (1, "APPLIED 1 11", 11),
        (-1, "APPLIED 1 9", 9),
        (-10, "APPLIED 1 0", 0),
        (-11, "REFUSED 1 too_few_units", 10),
        (-(10**30), "REFUSED 1 too_few_units", 10),
        (0, "REFUSED 1 not_a_delta", 10),
        ("", "REFUSED 1 not_a_delta", 10),
        ("many", "REFUSED 1 not_a_delta", 10),
    ],
)
async def test_units_go_down_to_what_is_free_and_never_below(
    redis: aioredis.Redis, delta: int | str, answer: str, available: int
) -> None:
    """What is taken stays taken (I4)."""
    ledger = await ledger_at_noon(redis, available=10)

    assert await change_at(ledger, NOON_MS, 1, "units", delta) == answer
    assert await ledger.numbers("available") == (available,)


async def test_units_move_while_a_sale_is_paused(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis)
    await ledger.change(1, "pause")

    assert await ledger.change(2, "units", 5) == Answer("APPLIED", ("2", "15"))


@pytest.mark.parametrize("state", ["open", "paused"])
async def test_the_end_takes_the_unsold_units_out_from_its_first_millisecond_on(
    redis: aioredis.Redis, state: str
) -> None:
    """`end` is refused before ends_ms; its event carries the units that go to the product."""
    ledger = await ledger_at_noon(redis, state=state, available=7)
    ends_ms = NOON_MS + HOUR_MS

    assert await change_at(ledger, ends_ms - 1, 1, "end") == "REFUSED 1 not_over"
    assert (await ledger.fields())["state"] == state
    assert await change_at(ledger, ends_ms, 2, "end") == "APPLIED 2 0"

    fields = await ledger.fields()
    assert (fields["state"], fields["available"]) == ("ended", "0")
    seq, event = await last_event(ledger)
    assert (seq, event["kind"], event["delta"], event["balance"]) == (2, "end", "-7", "0")


async def test_the_end_of_a_sale_that_is_sold_out_moves_no_unit(redis: aioredis.Redis) -> None:
    ledger = await ledger_at_noon(redis, available=0)

    assert await change_at(ledger, NOON_MS + HOUR_MS, 1, "end") == "APPLIED 1 0"
    assert int((await last_event(ledger))[1]["delta"]) == 0


@pytest.mark.parametrize("state", ["ended", "settled"])
@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("pause", "", ""),
        ("resume", "", ""),
        ("window", NOON_MS - HOUR_MS, NOON_MS + 9 * HOUR_MS),
        ("units", 5, ""),
        ("close", "", ""),
        ("end", "", ""),
    ],
)
async def test_after_the_end_nothing_brings_a_sale_back(
    redis: aioredis.Redis, state: str, kind: str, first: int | str, second: int | str
) -> None:
    ledger = await ledger_at_noon(redis, state=state, available=0)
    before = await ledger.fields()

    assert await change_at(ledger, NOON_MS, 1, kind, first, second) == "REFUSED 1 ended"
    assert await ledger.fields() == {**before, "seq": "1", "applied": "1"}


async def test_only_a_sale_that_has_ended_is_settled(redis: aioredis.Redis) -> None:
    ledger = await ledger_at_noon(redis)
    assert await change_at(ledger, NOON_MS, 1, "settle") == "REFUSED 1 not_ended"
    await ledger.set(state="paused")
    assert await change_at(ledger, NOON_MS, 2, "settle") == "REFUSED 2 not_ended"
    await ledger.set(state="ended", available=0)
    assert await change_at(ledger, NOON_MS, 3, "settle") == "APPLIED 3 0"
    assert (await ledger.fields())["state"] == "settled"
    assert await change_at(ledger, NOON_MS, 4, "settle") == "REFUSED 4 not_ended"


@pytest.mark.parametrize("kind", ["", "PAUSE", "reserve", "__index", "open"])
async def test_a_kind_that_nobody_knows_is_refused_with_its_event(redis: aioredis.Redis, kind: str) -> None:
    """It uses up its number, so that what comes after it is not stuck for ever."""
    ledger = await open_ledger(redis)
    before = await ledger.fields()

    assert await ledger.change(1, kind) == Answer("REFUSED", ("1", "unknown_kind"))
    assert await ledger.fields() == {**before, "seq": "1", "applied": "1"}


async def test_another_epoch_is_stale(redis: aioredis.Redis) -> None:
    """STALE_EPOCH: also after a ledger was fenced."""
    ledger = await open_ledger(redis)
    for epoch in ("2", "fenced.1"):
        await ledger.set(epoch=epoch)
        before = await everything(redis)
        assert await ledger.change(1, "pause") == Answer("STALE_EPOCH")
        assert await everything(redis) == before


async def test_a_ledger_that_is_missing_or_loading_is_not_loaded(redis: aioredis.Redis) -> None:
    """NOT_LOADED, and nothing is made up (F32)."""
    assert await (await sale_of_tests(redis)).change(1, "units", 5) == Answer("NOT_LOADED")
    assert await everything(redis) == {}

    ledger = await begun_ledger(redis)
    before = await everything(redis)
    assert await ledger.change(1, "units", 5) == Answer("NOT_LOADED")
    assert await everything(redis) == before


@pytest.mark.parametrize("name", ["sale", "stream"])
async def test_a_key_of_a_wrong_type_is_an_error_and_nothing_is_written(redis: aioredis.Redis, name: str) -> None:
    """F32."""
    ledger = await open_ledger(redis)
    await ledger.change(1, "pause")
    await redis.delete(getattr(ledger.keys, name))
    await redis.set(getattr(ledger.keys, name), "not a ledger")
    before = await everything(redis)

    with pytest.raises(NotSent, match="WRONGTYPE"):
        await ledger.change(2, "resume")

    assert await everything(redis) == before


@pytest.mark.parametrize("n", ["", "one", "nan"])
async def test_a_change_without_a_number_is_not_applied(redis: aioredis.Redis, n: Any) -> None:
    """F32: a comparison with what is not there must not change anything."""
    ledger = await open_ledger(redis)
    before = await everything(redis)

    try:
        answer = await ledger.change(n, "pause")
    except NotSent:
        pass
    else:
        assert answer.word == "GAP"
    assert await everything(redis) == before


async def test_a_stream_that_is_ahead_of_the_ledger_is_an_error_and_nothing_is_written(redis: aioredis.Redis) -> None:
    """The append is the first write, because it is the one that can still be refused."""
    ledger = await open_ledger(redis)
    await redis.xadd(ledger.keys.stream, {"kind": "pause"}, id="1-0")
    before = await everything(redis)

    with pytest.raises(NotSent, match="equal or smaller"):
        await ledger.change(1, "pause")

    assert await everything(redis) == before
