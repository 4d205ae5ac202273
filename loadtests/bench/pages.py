"""Public pages read by a crowd, beside a bare answer in the same rounds."""

import httpx
import msgspec

from loadtests.bench.messages import Round
from loadtests.bench.plan import Size
from loadtests.bench.purchases import BASELINE_SALE, UNITS, Report, start_baselines
from loadtests.bench.rounds import Summary, Wish, kept, per_second, play, summarize, throttled
from loadtests.bench.sales import forget, open_sales
from loadtests.bench.testbed import Testbed

ACCEPTED, OK, NOT_MODIFIED = "202", "200", "304"


class Pages(msgspec.Struct, kw_only=True):
    """`bare` was measured in the same rounds; `unchanged` is the sale's page for those who have it already."""

    bare: Summary
    sale: Summary
    product: Summary
    unchanged: Summary
    dropped_rounds: int


async def measure_pages(testbed: Testbed, size: Size, report: Report) -> Pages:
    """Rounds of bare, the sale's page, a product, and 304 in turn."""
    (sale,) = await open_sales(testbed, units=UNITS)
    await start_baselines(testbed, sale, ["bare"])
    await testbed.stop_worker()
    page = f"/v1/seckill/sales/{sale}"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{testbed.ports['shop']}") as client:
        first = await client.get(page)
    product, seconds = f"/v1/products/{first.json()['product_id']}", size.seconds
    wishes = {
        "bare": (Wish("bare", BASELINE_SALE, seconds), ACCEPTED),
        "sale": (Wish("shop", sale, seconds, page=page), OK),
        "product": (Wish("shop", sale, seconds, page=product), OK),
        "unchanged": (Wish("shop", sale, seconds, page=page, known_tag=first.headers["etag"]), NOT_MODIFIED),
    }
    rounds: dict[str, list[Round]] = {name: [] for name in wishes}
    for number in range(size.answer_rounds):
        for name, (wish, _) in wishes.items():
            found = await play(testbed, wish)
            rounds[name].append(found)
            report(f"round {number + 1}/{size.answer_rounds}  {name:13} {per_second(found):8,.0f} answers/s")
    last = await play(testbed, wishes["bare"][0])
    dropped = throttled([per_second(each) for each in (*rounds["bare"], last)])
    await forget(testbed, [sale])
    summaries = {
        name: summarize(kept(rounds[name], dropped), status, dropped=len(dropped))
        for name, (_, status) in wishes.items()
    }
    return Pages(**summaries, dropped_rounds=len(dropped))
