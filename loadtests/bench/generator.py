"""The load generator: purchases over raw connections, from a process of its own, at a few microseconds each.

It reads plans from its standard input, one JSON object a line, and answers each with one line: what came back, how long
it took, and what it cost the generator itself and the processes that the plan names. Every request has a token and an
Idempotency-Key of its own, made before the round.

A closed loop sends the next request when the last one is answered. An open loop sends at a rate, whatever comes back,
and measures each answer from the moment its request was meant to leave, not from the moment it could.
"""

import gc
import itertools
import sys
from collections.abc import Sequence

import msgspec
import uvloop

from loadtests.bench.accounting import rss_bytes
from loadtests.bench.loops import ClosedLoop, OpenLoop
from loadtests.bench.messages import Latency, Plan, Round
from loadtests.bench.requests import page_request, poll_requests, purchase_requests


async def play(plan: Plan) -> Round:
    """Play one round. Raises ConnectionError when nobody answers at the address."""
    requests = _requests(plan)
    loop = ClosedLoop(plan, requests) if plan.rate is None else OpenLoop(plan, requests)
    gc.collect()
    # What a round makes is freed without it, and a collection would be a pause in the load.
    gc.disable()
    try:
        await loop.run()
    finally:
        gc.enable()
    return _measured(loop)


def _requests(plan: Plan) -> list[bytes]:
    if plan.polled is not None:
        polls = poll_requests(plan.shoppers, plan.polled, host=plan.host, port=plan.port, known_tag=plan.known_tag)
        return list(itertools.islice(itertools.cycle(polls), plan.shoppers.count))
    if plan.reads:
        request = page_request(host=plan.host, port=plan.port, path=plan.path, known_tag=plan.known_tag)
        return [request] * plan.shoppers.count
    return purchase_requests(plan.shoppers, host=plan.host, port=plan.port, path=plan.path)


def _measured(loop: ClosedLoop) -> Round:
    accounts = loop.plan.accounts
    return Round(
        seconds=loop.ended_at - loop.begun_at,
        sent=loop.sent,
        statuses={status.decode(): count for status, count in loop.counts.items()},
        latency_ms={status.decode(): latency_of(seconds) for status, seconds in loop.latencies.items()},
        connections=min(len(loop.connections), loop.plan.connections),
        lost=loop.lost_requests,
        unsent=loop.unsent,
        unanswered=loop.under_way,
        answer_bytes=loop.answer_bytes,
        exhausted=loop.exhausted,
        cpu_seconds={name: used - loop.used_before.get(name, used) for name, used in loop.used_after.items()},
        rss_bytes={name: rss_bytes(pids) for name, pids in accounts.items()},
    )


def latency_of(seconds: Sequence[float]) -> Latency:
    """The percentiles of at least one measurement."""
    ordered = sorted(seconds)
    p50, p99, last = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.99, 1.0))
    return Latency(*(round(1000 * value, 3) for value in (p50, p99, last)))


def main() -> None:
    """Play the plans of the standard input, one after another."""
    for line in sys.stdin.buffer:
        plan = msgspec.json.decode(line, type=Plan)
        sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(play(plan))) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
