"""Every command by its name, its module and its line in the help; the module is imported when the command is called.

So the help, the version and the completion of a command's name wait for nothing that a command needs to run.
"""

import gc
from importlib import import_module
from typing import Any

import typer
from typer._click import Command, Context
from typer._click.shell_completion import CompletionItem
from typer.core import TyperCommand, TyperGroup, TyperOption

# In the order of the help. A command's line is the first paragraph of its own help.
COMMANDS = {
    "demo": (
        "shop.cli.local",
        "Run a whole flash sale on this machine and prove that nothing was oversold, lost or doubled.",
    ),
    "up": (
        "shop.cli.local",
        "Run a shop to develop against until Ctrl-C; its data stays in .shop/ and is found again.",
    ),
    "reset": ("shop.cli.local", "Delete the data of `shop up`; refused while it is up."),
    "api": ("shop.cli.servers", "Serve the API, and its metrics on their own port, until SIGTERM or Ctrl-C."),
    "worker": ("shop.cli.servers", "Record orders, follow the sales, expire holds."),
    "settings": (
        "shop.cli.servers",
        "List every setting with its default and its meaning; the values in force are not shown.",
    ),
    "openapi": ("shop.cli.servers", "Print the OpenAPI document; it is JSON with and without `--json`."),
    "migrate": ("shop.cli.migrations", "Bring the database's schema to a revision."),
    "sandbox-provider": (
        "shop.cli.sandbox",
        "Run a payment provider that moves no money, with the faults of a real one.",
    ),
    "user": ("shop.cli.users", "Accounts and tokens."),
    "product": ("shop.cli.products", "The catalogue."),
    "sale": ("shop.cli.sales", "Sales, from draft to audit."),
    "order": ("shop.cli.orders", "Orders, and what happened to them."),
    "payment": ("shop.cli.payments", "Payments."),
}


class Commands(TyperGroup):
    """The group of all commands. Each is a name with a line of help until it is called."""

    def __init__(self, **typers: Any) -> None:
        super().__init__(**typers)
        self.commands = {name: TyperCommand(name=name, help=line) for name, (_, line) in COMMANDS.items()}

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        """The option `--help`; without a default, Typer would import Pydantic to make sure that it was not given."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """The command that is called, with everything that it needs."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if name is None or command is None else self.load(name), rest

    def load(self, name: str) -> Command:
        """Import a command, or a group with its commands, as its module adds it to an application."""
        app = typer.Typer(rich_markup_mode=self.rich_markup_mode, pretty_exceptions_enable=False)
        gc.disable()  # What is imported stays: to look for cycles in it takes time and finds none.
        import_module("shop.cli.failures")  # When a command has failed, perhaps no file can be opened any more.
        import_module(COMMANDS[name][0]).add_to(app)
        gc.enable()
        return typer.main.get_group(app).commands[name]

    def shell_complete(self, ctx: Context, incomplete: str) -> list[CompletionItem]:
        """The names that begin so, without their lines of help, which Typer would render."""
        return [CompletionItem(each.value) for each in super().shell_complete(ctx, incomplete)]

    def format_help(self, ctx: Context, formatter: object) -> None:
        """Print the help. Typer would import what it may need for tracebacks and Markdown, which takes longer than all
        the rest.
        """
        from shop.cli.overview import print_overview

        print_overview(self, ctx)
