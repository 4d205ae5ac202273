"""The generator checked by one that is not ours: wrk, which is Debian's, against the shop and `bare`.

Both generators play in turn, from the same core. Where the shop stands beside `bare` should not depend on who asks.
"""

import asyncio
import shutil
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import msgspec

from loadtests.bench.cores import pinned
from loadtests.bench.plan import Size
from loadtests.bench.purchases import ACCEPTED, BASELINE_SALE, UNITS, Report, start_baselines
from loadtests.bench.requests import purchase_requests
from loadtests.bench.rounds import RATES_AT_FIRST, Spread, Wish, per_second, plan_of, play, spread
from loadtests.bench.sales import forget, open_sales
from loadtests.bench.testbed import ROUND_SECONDS_MAX, NotMeasured, Testbed

SCRIPT = Path(__file__).with_name("wrk.lua")
CONTENDERS = ("bare", "shop")
AGREE_WITHIN = 0.15
MICROSECONDS = 1_000_000
# Requests for so many times as long as the contender was seen to take for them.
SPARE = 2.0


class WrkRound(msgspec.Struct):
    """What wrk counted; `refused` are answers with 400 and more, `lost` requests without an answer."""

    requests: int
    microseconds: int
    refused: int
    lost: int

    @property
    def per_second(self) -> float:
        """Accepted purchases per second: nobody asks twice, so what is no refusal was accepted."""
        return MICROSECONDS * (self.requests - self.refused) / self.microseconds if self.microseconds else 0.0


class WrkLevel(msgspec.Struct, kw_only=True):
    """Accepted purchases per second by contender, as each generator saw them."""

    own: dict[str, Spread]
    wrk: dict[str, Spread]

    @property
    def own_ratio(self) -> float:
        """Shop / bare by our generator."""
        return self.own["shop"].median / self.own["bare"].median

    @property
    def wrk_ratio(self) -> float:
        """Shop / bare by wrk."""
        return self.wrk["shop"].median / self.wrk["bare"].median

    @property
    def agree(self) -> bool:
        return abs(self.wrk_ratio / self.own_ratio - 1) <= AGREE_WITHIN


class Wrk(msgspec.Struct, kw_only=True):
    """The levels by their connections; none where wrk is not installed."""

    levels: dict[int, WrkLevel]


async def measure_wrk(testbed: Testbed, size: Size, report: Report) -> Wrk:
    """Each generator against each contender in turn. Raises NotMeasured when wrk fails."""
    program = shutil.which("wrk")
    if program is None:
        report("wrk is not there")
        return Wrk(levels={})
    sale_ids = await open_sales(testbed, units=UNITS, count=len(size.wrk_levels))
    await start_baselines(testbed, sale_ids[0], ["bare"])
    await testbed.stop_worker()
    levels = {}
    for connections, sale_id in zip(size.wrk_levels, sale_ids, strict=True):
        found: dict[str, dict[str, list[float]]] = {each: {name: [] for name in CONTENDERS} for each in ("own", "wrk")}
        for number in range(size.wrk_rounds):
            for name in CONTENDERS:
                wish = Wish(name, sale_id if name == "shop" else BASELINE_SALE, size.wrk_seconds, connections)
                found["own"][name].append(per_second(await play(testbed, wish), ACCEPTED))
                found["wrk"][name].append((await _play(testbed, program, wish)).per_second)
                rates = "  ".join(f"{each} {found[each][name][-1]:8,.0f}" for each in found)
                report(f"round {number + 1}/{size.wrk_rounds}  {connections:5,} {name:5} purchases/s: {rates}")
        levels[connections] = WrkLevel(own=_spreads(found["own"]), wrk=_spreads(found["wrk"]))
        await forget(testbed, [sale_id])
    return Wrk(levels=levels)


def _spreads(found: dict[str, list[float]]) -> dict[str, Spread]:
    return {name: spread(rates, 0) for name, rates in found.items()}


async def _play(testbed: Testbed, program: str, wish: Wish) -> WrkRound:
    # It runs for whole seconds, and counts them to their end when it has no request left.
    seconds = ceil(wish.seconds)
    rate = testbed.rates.get(wish.contender, RATES_AT_FIRST[wish.contender])
    plan = plan_of(testbed, replace(wish, count=int(SPARE * seconds * rate)))
    requests = purchase_requests(plan.shoppers, host=plan.host, port=plan.port, path=plan.path)
    records = testbed.local.directory / "wrk"
    await asyncio.to_thread(records.write_bytes, b"".join(requests))
    command = [program, "--threads", "1", "--connections", str(wish.connections), "--script", str(SCRIPT),
               "--duration", f"{seconds}s", f"http://{plan.host}:{plan.port}{plan.path}",
               "--", str(records), str(_bytes_of_one(requests))]  # fmt: skip
    with pinned(testbed.cores.rest):
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(ROUND_SECONDS_MAX):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
        records.unlink()
    found = result_of(output, errors)
    if found.requests >= len(requests) - wish.connections:
        raise NotMeasured(f"wrk had only {len(requests):,} requests for {seconds} s")
    return found


def _bytes_of_one(requests: Sequence[bytes]) -> int:
    """Users, tokens and keys of a round are equally long. Raises NotMeasured if they are not."""
    lengths = set(map(len, requests))
    if len(lengths) != 1:
        raise NotMeasured(f"wrk's requests have several lengths: {lengths}")
    return lengths.pop()


def result_of(output: bytes, errors: bytes) -> WrkRound:
    """The last line of wrk's output. Raises NotMeasured when it is no result, or something was lost."""
    try:
        found = msgspec.json.decode(output.strip().rpartition(b"\n")[2], type=WrkRound)
    except msgspec.DecodeError:
        raise NotMeasured(f"wrk failed: {(errors or output).decode(errors='replace')[-500:]}") from None
    if found.lost or not found.requests > found.refused:
        raise NotMeasured(f"wrk got no good round: {found}")
    return found


def lines_of(measured: Wrk) -> list[str]:
    """What both generators say, a line for each level; and whether they agree."""
    if not measured.levels:
        return ["Second generator: wrk is not there."]
    return [
        f"At {connections} connections shop / bare is {level.own_ratio:.2f} by our generator and {level.wrk_ratio:.2f}"
        f" by wrk: {'they agree' if level.agree else f'they differ by more than {AGREE_WITHIN:.0%}'}."
        for connections, level in measured.levels.items()
    ]
