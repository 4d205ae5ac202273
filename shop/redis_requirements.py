"""The requirements for the Redis that holds a ledger: it forgets nothing, and nobody can run their own code in it."""

import re
from collections.abc import Mapping
from typing import Any

import redis.asyncio as aioredis
import structlog

from shop.settings import Settings

Version = tuple[int, int, int]

# Scripts that begin with `#!lua`.
MAJOR_MIN = 7
# CVE-2025-49844: whoever may send a script can run code on the server; it is as old as Lua in Redis. Each branch that
# was fixed, and the first release with the fix; branches that are newer than these never had it. Debian and Ubuntu fix
# versions that are not in this table and keep their numbers, so the number alone does not tell.
CVE = "CVE-2025-49844 (code execution through Lua)"
FIXED_IN: Mapping[str, Mapping[tuple[int, int], int]] = {
    "redis": {(7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}

log = structlog.get_logger(__name__)


async def ledger_problems(client: aioredis.Redis, settings: Settings) -> list[str]:
    """Why this Redis must not hold a ledger, each a sentence for an operator; empty means that it may.

    Development does without the append-only file, and is only warned of a version that has a known CVE.
    """
    info = {**await client.info("server"), **await client.info("memory"), **await client.info("persistence")}
    found = [_eviction(info), _too_old(info)]
    if settings.environment != "development":
        found.append(_append_only_file(info))
    cve = None if settings.redis_patched else known_cve(*server_of(info))
    if settings.environment == "production":
        found.append(cve)
    elif cve:
        log.warning("ledger_redis_has_a_known_cve", reason=cve)
    return [problem for problem in found if problem]


def server_of(info: Mapping[str, Any]) -> tuple[str, Version]:
    """The maker and the version. A Valkey calls itself Redis 7.2.4 as well, for old clients."""
    name = "valkey" if "valkey_version" in info else "redis"
    numbers = re.findall(r"\d+", str(info.get(f"{name}_version", "")))[:3]
    major, minor, patch = (int(number) for number in (*numbers, *"000"[len(numbers) :]))
    return name, (major, minor, patch)


def known_cve(name: str, version: Version) -> str | None:
    """What is wrong with this version and what to do about it, or None."""
    branches, (major, minor, patch) = FIXED_IN[name], version
    if (major, minor) > max(branches) or patch >= branches.get((major, minor), patch + 1):
        return None
    safe = ", ".join(f"{a}.{b}.{c}" for (a, b), c in branches.items())
    return (
        f"{name.capitalize()} {major}.{minor}.{patch} has {CVE}: use {safe} or a newer branch; if your distribution"
        " has fixed it without a new number, set SHOP_REDIS_PATCHED=true"
    )


def _eviction(info: Mapping[str, Any]) -> str | None:
    policy = info.get("maxmemory_policy")
    return None if policy == "noeviction" else f"maxmemory-policy is {policy}, it must be noeviction"


def _append_only_file(info: Mapping[str, Any]) -> str | None:
    return None if info.get("aof_enabled") else "appendonly is off: accepted orders would be lost in a crash"


def _too_old(info: Mapping[str, Any]) -> str | None:
    name, (major, minor, patch) = server_of(info)
    if major >= MAJOR_MIN:
        return None
    return f"{name.capitalize()} {major}.{minor}.{patch} is too old: the scripts need {MAJOR_MIN} or newer"
