"""What is done to the network: between the API and the ledger, and (the wire) between the workers and Postgres."""

import asyncio

from loadtests.chaos import ChaosProxy, Delay, LoseReply, Mode, Pass, Stall
from loadtests.torture.context import Context
from loadtests.torture.plan import Draw, Fault, Injection, touches
from shop.redis import script

LOST_REPLIES_SECONDS = 1.0


async def delay_network(context: Context, draw: Draw) -> Injection:
    """Everything between the API and the ledger takes longer."""
    seconds = draw.uniform(0.02, 0.3)
    await _for_a_while(context.testbed.network, Delay(seconds, jitter_seconds=seconds), draw.uniform(1.0, 3.0))
    return Injection(0, f"{seconds * 1000:.0f} ms")


async def stall_network(context: Context, draw: Draw) -> Injection:
    """Nothing passes between the API and the ledger, and nobody is told."""
    seconds = draw.uniform(0.5, 3.0)
    await _for_a_while(context.testbed.network, Stall(), seconds)
    return Injection(0, f"{seconds:.1f} s")


async def reset_network(context: Context, _: Draw) -> Injection:
    """Every connection between the API and the ledger is reset."""
    context.testbed.network.reset_all()
    return Injection(0, f"{context.testbed.network.connections} connections")


async def lose_replies(context: Context, _: Draw) -> Injection:
    """Purchases are executed, and nobody is told: the connection is reset when the reply comes."""
    network = context.testbed.network
    before = network.injected
    await _for_a_while(network, LoseReply(script("reserve").sha.encode(), reset=True, times=None), LOST_REPLIES_SECONDS)
    return Injection(0, f"{network.injected - before} connections")


async def stall_wire(context: Context, draw: Draw) -> Injection:
    """Nothing passes between the workers and Postgres."""
    seconds = draw.uniform(1.0, 3.0)
    await _for_a_while(context.testbed.wire, Stall(), seconds)
    return Injection(0, f"{seconds:.1f} s")


async def _for_a_while(proxy: ChaosProxy, mode: Mode, seconds: float) -> None:
    """Let a network misbehave for so long."""
    await proxy.be(mode)
    try:
        await asyncio.sleep(seconds)
    finally:
        await proxy.be(Pass())


async def reset_wire(context: Context, _: Draw) -> Injection:
    """Every connection between the workers and Postgres is reset."""
    context.testbed.wire.reset_all()
    return Injection(0, f"{context.testbed.wire.connections} connections")


FAULTS = (
    Fault("delay_network", delay_network, touches("network")),
    Fault("stall_network", stall_network, touches("network")),
    Fault("reset_network", reset_network, touches("network")),
    Fault("lose_replies", lose_replies, touches("network")),
    Fault("stall_wire", stall_wire, touches("wire", "worker")),
    Fault("reset_wire", reset_wire, touches("wire", "worker")),
)
