"""The shop as a package: what is installed from a built wheel, in an empty directory, is the whole shop."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from shop.local import environment_of
from shop.settings import Settings
from tests.nursery import ANY_PORT, ROOT, environment
from tests.processes import copy_of

BUILD_SECONDS = 110.0
EXTRA = "embedded"


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


def test_the_demo_runs_from_a_wheel_in_a_fresh_environment(installed: Path, home: Path) -> None:
    """Scripts, migrations and the crowd travel with the package; nothing of the checkout is needed."""
    empty = home / "empty"
    empty.mkdir()

    size = ("--units", "20", "--shoppers", "60")
    done = run(installed, "demo", "--exit", "--json", *size, directory=empty, **ANY_PORT)

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["reserved"], figures["persisted"], figures["oversold"], figures["lost"]) == (20, 20, 0, 0)
    assert set(figures["invariants"].values()) == {True}
    assert os.listdir(empty) == []


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
