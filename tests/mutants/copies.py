"""Copies of the tree: every break happens in one of them, never in the tree itself."""

import compileall
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

# What no test needs, or what is found by another way. Compiled files stay: they keep a run short.
LEFT_OUT = (
    ".git", ".hypothesis", ".import_linter_cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".schemathesis",
    ".shop", ".uv", ".venv", "build", "dist",
)  # fmt: skip


@contextmanager
def copy_of_tree(root: Path) -> Iterator[Path]:
    """A copy of this tree, gone afterwards."""
    with TemporaryDirectory(prefix="shop-mutant-", ignore_cleanup_errors=True) as directory:
        copy = Path(directory) / "tree"
        shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        yield copy


@contextmanager
def compiled_copy_of_tree(root: Path) -> Iterator[Path]:
    """As `copy_of_tree`, with all of it compiled, so that the copies that are made of this one need not be."""
    with copy_of_tree(root) as copy:
        compileall.compile_dir(copy, quiet=2)
        yield copy
