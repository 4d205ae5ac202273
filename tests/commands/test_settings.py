"""A setting that cannot be is one line that names it, whatever stands there, and the process does not start."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from shop.settings import NUMBER_MAX, Settings
from tests.commands.all_commands import commands
from tests.nursery import Said

GARBAGE = ["", " ", "abc", "-1", "nan", "inf", "-inf", "1e308", "1e400", "9" * 40, "[", "[1]", "{}", "null", "::1",
           "[::1", "http://[", "redis://h:99999/0", "unix://", "a" * 70, "true\x9b31m", "\udcff"]  # fmt: skip
LISTS = {"cors_origins"}  # What is no JSON at all is refused before any other setting is looked at.


@pytest.mark.parametrize("garbage", GARBAGE, ids=ascii)
def test_no_value_of_a_setting_ends_in_anything_but_a_named_refusal(
    garbage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting with every kind of garbage is refused by its name; a number that is taken is within bounds."""
    fields = Settings.model_fields.keys() - LISTS
    for field in fields:
        monkeypatch.setenv(f"SHOP_{field.upper()}", garbage)

    with pytest.raises(ValidationError) as refused:
        Settings(_env_file=None)

    wrong = {each["loc"][0] for each in refused.value.errors()}
    taken = {field: Settings.model_fields[field].annotation for field in fields - wrong}
    assert {"environment", "log_level", "database_url", "redis_url"} <= wrong <= fields
    assert not {int, float} & set(taken.values()) or abs(float(garbage)) <= NUMBER_MAX


@pytest.mark.parametrize(
    ("name", "garbage"),
    [
        ("SHOP_CORS_ORIGINS", "https://shop.example"),
        ("SHOP_CORS_ORIGINS", '["https://shop.example"'),
        ("SHOP_API_PORT", "65536"),
        ("SHOP_API_PORT", "eighty"),
        ("SHOP_REDIS_TIMEOUT_SECONDS", "inf"),
        ("SHOP_REDIS_PATCHED", "perhaps"),
        ("SHOP_DATABASE_URL", "mysql://localhost/shop"),
        ("SHOP_REDIS_URL", "redis://localhost:99999/0"),
        ("SHOP_REDIS_URL", "redis://[::1/0"),
        ("SHOP_API_HOST", ""),
        ("SHOP_API_HOST", "a" * 70),
    ],
)
def test_what_a_setting_cannot_be_is_one_line_that_names_it(name: str, garbage: str, says: Callable[..., Said]) -> None:
    """With status 2; the value, which may be a secret, is not shown."""
    said = says("sale", "audit", "1", SHOP_ENVIRONMENT="development", **{name: garbage})

    assert (said.status, said.output, said.errors.count("\n")) == (2, "", 1)
    assert said.errors.startswith(f"error: {name}")
    assert not garbage or garbage not in said.errors


def test_every_command_tells_a_wrong_setting_in_the_same_way(says: Callable[..., Said]) -> None:
    """Each command that takes no words, with and without --json, and nothing is started."""
    for path, command in commands():
        if not any(parameter.required for parameter in command.params) and path not in {("openapi",), ("settings",)}:
            words = [*path, "--yes"] if path == ("reset",) else path
            said = says(*words, "--json", SHOP_ENVIRONMENT="development", SHOP_CORS_ORIGINS="[")
            assert said.errors == "", path
            assert path == ("reset",) or said.value["error"]["detail"].startswith("SHOP_CORS_ORIGINS: "), path


def test_a_settings_file_that_is_no_text_is_one_line(says: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"SHOP_SECRET_KEY=\xff\xfe\n")

    said = says("sale", "audit", "1")

    assert (said.status, said.errors.count("\n"), "UTF-8" in said.errors) == (2, 1, True)
