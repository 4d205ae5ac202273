"""A time on the command line is UTC unless it names a zone."""

import pytest

from shop.cli.arguments import time


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2030-01-01T12:00:00", "2030-01-01T12:00:00+00:00"),
        ("2030-01-01 12:00", "2030-01-01T12:00:00+00:00"),
        ("2030-01-01", "2030-01-01T00:00:00+00:00"),
        ("2030-01-01T12:00:00Z", "2030-01-01T12:00:00+00:00"),
        ("2030-01-01T12:00:00+02:00", "2030-01-01T10:00:00+00:00"),
    ],
)
def test_a_time_is_utc_unless_it_names_a_zone(text: str, meant: str) -> None:
    assert time(text).isoformat() == meant
