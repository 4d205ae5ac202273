"""A small disk of a test's own, and a way to fill it."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHUNK = bytes(64 * 1024)


@contextmanager
def small_disk(directory: Path, *, megabytes: int) -> Iterator[Path]:
    """A directory that is a disk of this size. Where mounting is not allowed, the test is skipped."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(directory)]
    unmount = ["umount", "--lazy", str(directory)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount one: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(unmount, check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Within it not one more byte can be written to the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (len(CHUNK), 1):
            try:
                while True:
                    os.write(file.fileno(), CHUNK[:size])
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    try:
        yield
    finally:
        filler.unlink()
