"""The command in this process, for what needs no server: a process of its own would be a hundred times as dear."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shop.cli import main
from shop.settings import get_settings
from tests.nursery import Said, environment


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Said]:
    """Run `shop WORDS…` in an empty directory with these variables, and return what it printed."""

    def say(*words: str, **variables: str) -> Said:
        with monkeypatch.context() as patched:
            patched.setattr("os.environ", environment(**variables))
            patched.setattr(sys, "argv", ["shop", *words])
            patched.chdir(tmp_path)
            get_settings.cache_clear()
            with pytest.raises(SystemExit) as ended:
                main()
            get_settings.cache_clear()
        printed = capsys.readouterr()
        return Said(ended.value.code or 0, printed.out, printed.err)  # type: ignore[arg-type]

    return say
