"""Orders that are polled by a crowd, each poll another order, beside a bare answer and purchases in the same rounds."""

import time

import msgspec

from loadtests.bench.plan import Size
from loadtests.bench.purchases import BASELINE_SALE, UNITS, Report, start_baselines
from loadtests.bench.requests import PolledOrders
from loadtests.bench.rounds import Summary, Wish, kept, play_in_turn, summarize
from loadtests.bench.sales import fill, forget, open_sales, row, until_drained
from loadtests.bench.testbed import Testbed

# The status of the answers that count.
STATUSES = {"bare": "202", "purchase": "202", "poll": "200", "unchanged": "304"}
# The tag of an order that has just been recorded.
RECORDED_TAG = 'W/"2"'


class OrderPolls(msgspec.Struct, kw_only=True):
    """`bare` was measured in the same rounds; `unchanged` are the polls of those who know the state already."""

    bare: Summary
    purchase: Summary
    poll: Summary
    unchanged: Summary
    dropped_rounds: int


async def measure_polls(testbed: Testbed, size: Size, report: Report) -> OrderPolls:
    """Rounds of bare, purchases, polls of recorded orders, and 304 in turn."""
    (sale,) = await open_sales(testbed, units=UNITS)
    await start_baselines(testbed, sale, ["bare"])
    issued_at = int(time.time())
    name = await fill(testbed, sale, size.polled_orders)
    testbed.start_worker()
    await until_drained(testbed, [sale])
    await testbed.stop_worker()
    polled = PolledOrders(
        sale_id=sale, salt=(await row(testbed, sale)).salt, orders=size.polled_orders, issued_at=issued_at
    )
    seconds = size.seconds
    wishes = {
        "bare": Wish("bare", BASELINE_SALE, seconds),
        "purchase": Wish("shop", sale, seconds),
        "poll": Wish("shop", sale, seconds, shoppers=name, polled=polled),
        "unchanged": Wish("shop", sale, seconds, shoppers=name, polled=polled, known_tag=RECORDED_TAG),
    }
    rounds, dropped = await play_in_turn(testbed, wishes, size.answer_rounds, report)
    await forget(testbed, [sale])
    summaries = {
        each: summarize(kept(rounds[each], dropped), status, dropped=len(dropped)) for each, status in STATUSES.items()
    }
    return OrderPolls(**summaries, dropped_rounds=len(dropped))
