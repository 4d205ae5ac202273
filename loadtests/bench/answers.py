"""The shop's cheap answers: "sold out" to a crowd that comes too late, and the first order to those who ask again."""

import msgspec

from loadtests.bench.plan import Size
from loadtests.bench.purchases import BASELINE_SALE, UNITS, Report, start_baselines
from loadtests.bench.rounds import RATES_AT_FIRST, Summary, Wish, kept, play_in_turn, summarize
from loadtests.bench.sales import fill, forget, open_sales
from loadtests.bench.testbed import Testbed

SOLD_OUT, REPLAYED, ACCEPTED = "409", "200", "202"


class Answers(msgspec.Struct, kw_only=True):
    """`bare` was measured in the same rounds."""

    bare: Summary
    sold_out: Summary
    replays: Summary
    dropped_rounds: int


async def measure_answers(testbed: Testbed, size: Size, report: Report) -> Answers:
    """Rounds of bare, sold out and replays in turn. Every token is new, also that of one who asks again."""
    (sold_out,) = await open_sales(testbed, units=1)
    (replays,) = await open_sales(testbed, units=UNITS)
    await start_baselines(testbed, replays, ["bare"])
    await testbed.stop_worker()
    buyers = int(testbed.rates.get("shop", RATES_AT_FIRST["shop"]) * 2 * size.seconds)
    name = await fill(testbed, replays, buyers)
    wishes = {
        "bare": Wish("bare", BASELINE_SALE, size.seconds),
        "sold_out": Wish("shop", sold_out, size.seconds),
        "replays": Wish("shop", replays, size.seconds, shoppers=name, count=buyers),
    }
    rounds, dropped = await play_in_turn(testbed, wishes, size.answer_rounds, report)
    await forget(testbed, [sold_out, replays])

    def summary(name: str, status: str) -> Summary:
        return summarize(kept(rounds[name], dropped), status, dropped=len(dropped))

    return Answers(
        bare=summary("bare", ACCEPTED),
        sold_out=summary("sold_out", SOLD_OUT),
        replays=summary("replays", REPLAYED),
        dropped_rounds=len(dropped),
    )
