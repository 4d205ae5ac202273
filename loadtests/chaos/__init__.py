"""A network that misbehaves on command: a proxy before Valkey, PostgreSQL or an API, for tests and for load tests.

It listens on the loopback and speaks no protocol: what comes from a client goes to the server, and back, unless its
mode says otherwise. One mode is in force at a time, for all connections, and may be changed at any moment; what is
under way follows it at once. Every buffer is bounded, so whoever sends into a stalled network is held up as by a real
one.

    async with chaos_proxy(settings.redis_url) as proxy:
        settings = settings.model_copy(update={"redis_url": proxy.url})
        …
        await proxy.be(Stall())      # nothing passes, and nobody is told
        await proxy.be(Pass())       # what was held goes on its way
        proxy.reset_all()            # every connection that there is ends with a reset

network     the modes, and which is in force
connection  one client's connection through the proxy
proxy       who listens, and where the server is
"""

from loadtests.chaos.network import Cut, Delay, LoseReply, LoseRequest, Mode, Pass, Refuse, Stall, Trickle, Way
from loadtests.chaos.proxy import ChaosProxy, chaos_proxy

__all__ = [
    "ChaosProxy",
    "Cut",
    "Delay",
    "LoseReply",
    "LoseRequest",
    "Mode",
    "Pass",
    "Refuse",
    "Stall",
    "Trickle",
    "Way",
    "chaos_proxy",
]
