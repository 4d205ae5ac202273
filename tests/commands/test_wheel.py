"""The shop as a package: what is installed from a built wheel, in an empty directory, is the whole shop."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import psutil
import pytest

from shop.local import environment_of
from shop.settings import Settings
from tests.harness import wait_until
from tests.nursery import ANY_PORT, alive, environment, family
from tests.processes import copy_of
from tests.source_tree import ROOT

BUILD_SECONDS = 110.0
EXTRA = "embedded"
# What the demo's JSON object has.
KEYS = [
    "units",
    "shoppers",
    "attempts",
    "reserved",
    "reservations",
    "sold_out",
    "over_limit",
    "rate_limited",
    "errors",
    "persisted",
    "oversold",
    "lost",
    "duplicated",
    "attempts_per_second",
    "reserve_p50_ms",
    "reserve_p99_ms",
    "drain_seconds",
    "invariants",
    "paid",
    "refunded",
    "expired",
    "cancelled",
    "returned",
    "resold",
    "second_wave",
    "currency",
    "captured_minor",
    "paid_minor",
    "refunded_minor",
    "provider_captured_minor",
    "provider_refunded_minor",
    "failed_customers",
    "late_customers",
    "expired_early",
    "retried",
    "retries_found",
]


@lru_cache
def uv_program() -> str:
    """The uv that runs these tests, or one on PATH if it runs (a shim may not), or the one that make fetched."""
    for candidate in (os.environ.get("UV"), shutil.which("uv"), str(ROOT / ".uv" / "bin" / "uv")):
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    raise AssertionError("there is no uv")


def uv(*arguments: str | Path, directory: Path = ROOT) -> str:
    """Run uv, and return what it printed."""
    done = subprocess.run(
        [uv_program(), *arguments], capture_output=True, text=True, cwd=directory, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A short directory of this module's own."""
    found = Path(tempfile.mkdtemp(prefix="wheel-"))
    yield found
    shutil.rmtree(found)


@pytest.fixture(scope="module")
def installed(home: Path) -> Path:
    """The `shop` command of a fresh environment, with the versions of the lock."""
    uv("build", "--wheel", "--out-dir", home / "dist")
    (wheel,) = (home / "dist").glob("*.whl")
    locked = home / "locked.txt"
    locked.write_text(
        uv("export", "--frozen", "--no-dev", "--extra", EXTRA, "--no-emit-project", "--no-hashes", "--no-header")
    )
    uv("venv", "--python", sys.executable, home / "venv")
    python = home / "venv" / "bin" / "python"
    uv("pip", "install", "--python", python, "--constraints", locked, f"{wheel}[{EXTRA}]", directory=home)
    return home / "venv" / "bin" / "shop"


def run(command: Path, *arguments: str, directory: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed command in a directory, out of sight of the checkout."""
    return subprocess.run(
        [command, *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment(PYTHONPATH="", **variables),
        timeout=BUILD_SECONDS,
        check=False,
    )


async def test_the_demo_of_a_wheel_sells_every_unit_and_proves_it(installed: Path, home: Path) -> None:
    """In an empty directory: exit status 0, one JSON object, and neither a process nor a file is left."""
    empty, temporary = home / "empty", home / "tmp"
    empty.mkdir()
    temporary.mkdir()
    size = ("--units", "50", "--shoppers", "300", "--processes", "2")
    variables = environment(PYTHONPATH="", TMPDIR=str(temporary), **ANY_PORT)
    seen: dict[int, psutil.Process] = {}
    with (home / "output").open("w+") as output, (home / "errors").open("w+") as errors:
        demo = await asyncio.create_subprocess_exec(
            installed, "demo", "--exit", "--json", *size, stdout=output, stderr=errors, cwd=empty, env=variables
        )

        async def ended() -> bool:
            seen.update({process.pid: process for process in family(demo.pid)})
            return demo.returncode is not None

        try:
            # To look for processes costs more than most of what they do.
            await wait_until(ended, within=BUILD_SECONDS, every=0.25, reason="the demo has ended")
        finally:
            if demo.returncode is None:
                demo.kill()

    assert demo.returncode == 0, (home / "errors").read_text()
    figures = json.loads((home / "output").read_text().splitlines()[-1])
    assert list(figures) == KEYS
    assert [figures[name] for name in ("units", "shoppers", "reserved", "persisted")] == [50, 300, 50, 50]
    assert [figures[name] for name in ("errors", "oversold", "lost", "duplicated")] == [0, 0, 0, 0]
    assert figures["reserved"] + figures["sold_out"] + figures["over_limit"] == 300
    assert figures["attempts"] >= 300
    assert figures["reservations"] >= 50
    assert 0 < figures["reserve_p50_ms"] <= figures["reserve_p99_ms"]
    assert {"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I11"} == figures["invariants"].keys()
    assert set(figures["invariants"].values()) == {True}
    assert [figures[name] for name in ("expired", "cancelled", "returned", "resold")] == [5, 5, 11, 11]
    # Every purchase with a key, whatever became of its order, and most have one.
    assert 40 <= figures["retries_found"] == figures["retried"] <= 61
    assert (figures["paid"], figures["refunded"], figures["failed_customers"]) == (50, 1, 0)
    assert figures["captured_minor"] == figures["provider_captured_minor"] == 51 * 99_00
    assert (figures["paid_minor"], figures["refunded_minor"]) == (50 * 99_00, 99_00)
    assert len(seen) >= 7
    assert alive(seen.values()) == []
    assert [*empty.iterdir(), *temporary.glob("shop-*")] == []


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_missing_script_stops_the_start(installed: Path, home: Path, live_settings: Settings, command: str) -> None:
    """A broken installation says what is missing instead of failing at the first purchase."""
    (file,) = (home / "venv").glob("lib/*/site-packages/shop/bundled/lua/reserve.lua")
    script = file.read_text()
    settings = copy_of(live_settings, metrics_port=0, worker_metrics_port=0)
    file.unlink()
    try:
        done = run(installed, command, directory=home, **environment_of(settings))
    finally:
        file.write_text(script)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the script lua/reserve.lua is missing")
    assert "Traceback" not in done.stderr
