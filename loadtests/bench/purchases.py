"""The purchase itself: the contenders in turn, again and again, each on the same core with the same connections."""

from collections.abc import Callable, Sequence

import msgspec

from loadtests.bench.group_sizes import read_groups
from loadtests.bench.messages import Round
from loadtests.bench.plan import CONNECTIONS, PURCHASE_ORDER, Size
from loadtests.bench.rounds import Summary, Wish, kept, per_second, play, summarize, throttled
from loadtests.bench.sales import forget, open_sales, purchase_answer
from loadtests.bench.testbed import Testbed

ACCEPTED = "202"
# More than the rounds of one sale can buy, and not much more: the ledger takes a little memory for every unit.
UNITS = 1_000_000
# The one row of stock that `postgres_only` sells from; the textbook's sale has the same number.
BASELINE_SALE = 1

Report = Callable[[str], None]


class Purchases(msgspec.Struct, kw_only=True):
    """What the contenders came to. `group_size` is how many purchases of the shop shared a script call, on average."""

    connections: int
    seconds: float
    contenders: dict[str, Summary]
    group_size: float | None
    dropped_rounds: int


async def measure_purchases(testbed: Testbed, size: Size, report: Report) -> Purchases:
    """Play the rounds A B C D, A B C D … and one more of `bare`, so that every round lies between two of them."""
    sale_ids = await open_sales(testbed, units=UNITS, count=size.rounds)
    await start_baselines(testbed, sale_ids[0], [name for name in PURCHASE_ORDER if name != "shop"])
    await testbed.stop_worker()
    rounds: dict[str, list[Round]] = {name: [] for name in PURCHASE_ORDER}
    before = await group_counts(testbed)
    for number, sale_id in enumerate(sale_ids):
        for name in PURCHASE_ORDER:
            found = await play(testbed, Wish(name, sale_id if name == "shop" else BASELINE_SALE, size.seconds))
            rounds[name].append(found)
            report(f"round {number + 1}/{size.rounds}  {name:13} {per_second(found, ACCEPTED):8,.0f} purchases/s")
    after = await group_counts(testbed)
    last = await play(testbed, Wish("bare", BASELINE_SALE, size.seconds))
    dropped = throttled([per_second(each) for each in (*rounds["bare"], last)])
    await forget(testbed, sale_ids)
    await testbed.redis.delete(*(f"textbook:{{{BASELINE_SALE}}}:{name}" for name in ("stock", "buyers", "stream")))
    return Purchases(
        connections=CONNECTIONS,
        seconds=size.seconds,
        contenders={
            name: summarize(kept(found, dropped), ACCEPTED, dropped=len(dropped)) for name, found in rounds.items()
        },
        group_size=round((after[0] - before[0]) / (after[1] - before[1]), 1) if after[1] > before[1] else None,
        dropped_rounds=len(dropped),
    )


async def start_baselines(testbed: Testbed, sale_id: int, names: Sequence[str]) -> None:
    """Start the contenders that do not run yet; `bare` answers with what this sale answers. Raises NotMeasured."""
    missing = [name for name in names if name not in testbed.ports]
    if not missing:
        return
    answer = testbed.local.directory / "answer"
    answer.write_bytes(await purchase_answer(testbed, sale_id))
    for name in missing:
        testbed.start_baseline(name, answer)
    for name in missing:
        await testbed.until_listening(name)


async def group_counts(testbed: Testbed) -> tuple[float, float]:
    """The purchases that shared a script call so far, and the calls, from the metrics page; zeros without it."""
    found = await read_groups(testbed)
    return (found.purchases, found.calls) if found else (0.0, 0.0)
