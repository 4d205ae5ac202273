"""The command in this process, for what needs no server: a process of its own would be a hundred times as dear."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from shop.cli import main
from shop.settings import get_settings
from tests.nursery import Said, environment


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Said]:
    """Run `shop WORDS…` in an empty directory with these variables, and return what it printed."""

    configure, before, handlers = structlog.configure, structlog.get_config(), logging.root.handlers[:]

    def without_cache(**changes: Any) -> None:
        """A logger that has cached how it logs here would log so in all later tests."""
        configure(**{**changes, "cache_logger_on_first_use": False})

    def say(*words: str, **variables: str) -> Said:
        with monkeypatch.context() as patched:
            patched.setattr(structlog, "configure", without_cache)
            patched.setattr("os.environ", environment(**variables))
            patched.setattr(sys, "argv", ["shop", *words])
            patched.chdir(tmp_path)
            get_settings.cache_clear()
            with pytest.raises(SystemExit) as ended:
                main()
            get_settings.cache_clear()
        configure(**before)
        logging.root.handlers[:] = handlers
        printed = capsys.readouterr()
        return Said(ended.value.code or 0, printed.out, printed.err)  # type: ignore[arg-type]

    return say
