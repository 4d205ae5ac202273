"""Every command of the shop, read from the Typer application, with words for its arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from shop.cli import app
from shop.cli.commands import Commands

# They run until they are stopped, or make a shop of their own.
SERVING = {("demo",), ("up",), ("api",), ("worker",), ("sandbox-provider",)}


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, groups left out."""
    group = typer.main.get_command(app) if group is None else group
    if not hasattr(group, "commands"):
        yield path, group
    for name, command in members(group).items():
        yield from commands(command, (*path, name))


def members(group: Any) -> Mapping[str, Any]:
    """The commands and groups of a group; none of a command."""
    names = getattr(group, "commands", {})
    return {name: group.load(name) for name in names} if isinstance(group, Commands) else names


def words_for(command: Any, values: Mapping[str, str]) -> list[str]:
    """Words for everything that a command must be given: these values by the names of its parameters."""
    words = []
    for parameter in command.params:
        if parameter.required or parameter.name in {"name", "password", "yes"}:
            named = parameter.param_type_name == "option"
            words += [parameter.opts[0]] if named else []
            words += [] if getattr(parameter, "is_flag", False) else [_value(parameter, values)]
    return words


def _value(parameter: Any, values: Mapping[str, str]) -> str:
    choices = parameter.type_descriptor.choices
    return str(next(iter(choices))) if choices else values[parameter.name]
