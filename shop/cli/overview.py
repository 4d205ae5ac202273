"""The help of `shop` itself, as Typer prints that of every group (`typer.rich_utils`), letter by letter.

Typer prepares for tracebacks and for Markdown as well, and that takes longer than all the rest of this help. A test
compares the two.
"""

from collections.abc import Iterable, Iterator
from inspect import cleandoc

from rich.align import Align
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.highlighter import RegexHighlighter
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.theme import Theme
from typer._click import Context
from typer.core import TyperGroup, TyperOption

STYLES = {"option": "bold cyan", "switch": "bold green", "types": "bold yellow", "types_sep": "dim", "usage": "yellow"}
CODE = "bold cyan on black"


class _Words(RegexHighlighter):
    highlights = [  # noqa: RUF012 - as the class above has it
        r"(^|\W)(?P<switch>\-\w+)(?![a-zA-Z0-9])",
        r"(^|\W)(?P<option>\-\-[\w\-]+)(?![a-zA-Z0-9])",
        r"(?P<types>\<[^\>]+\>)",
        r"(?P<usage>Usage: )",
    ]


class _Types(RegexHighlighter):
    highlights = [  # noqa: RUF012
        r"^(?P<types_sep>(\[|<))",
        r"(?P<types_sep>\|)",
        r"(?P<types_sep>(\]|>))(\.\.\.)?$",
    ]


words, types = _Words(), _Types()


def print_overview(group: TyperGroup, context: Context) -> None:
    """Print usage, what the group is, its options, its commands, and its epilog."""
    console = Console(theme=Theme(STYLES), highlighter=words)
    console.print(Padding(words(group.get_usage(context)), 1), style="bold")
    console.print(Padding(Align(_paragraphs(group.help), pad=False), (0, 1, 1, 1)))
    _print_panel(console, "Options", _options(group, context))
    commands = Table(highlight=False, show_header=False, expand=True, box=None, pad_edge=False)
    commands.add_column(style="bold cyan", no_wrap=True, width=max(map(len, group.commands)))
    commands.add_column("Description", ratio=10)
    for name, command in group.commands.items():
        commands.add_row(name, _marked(command.help))
    _print_panel(console, "Commands", commands)
    console.print(Padding(Align(_paragraphs(group.epilog), pad=False), 1))


def _print_panel(console: Console, title: str, table: Table) -> None:
    console.print(Panel(table, border_style="dim", title=title, title_align="left"))


def _options(group: TyperGroup, context: Context) -> Table:
    """A row for each option: its name, its type, its help."""
    table = Table(highlight=True, show_header=False, expand=True, box=None, pad_edge=False)
    for option in group.get_params(context):
        if isinstance(option, TyperOption):
            kind = types(Text(option.display_type_rich(ctx=context) or "", style="bold yellow", overflow="fold"))
            table.add_row(words(",".join(option.opts)), "", "", "", kind, Columns([_marked(option.help)]))
    return table


def _paragraphs(text: str | None) -> Group:
    paragraphs = [_marked(each) for each in cleandoc(text or "").split("\n\n")]
    return Group(*_between(Text(""), paragraphs))


def _between(gap: RenderableType, parts: Iterable[RenderableType]) -> Iterator[RenderableType]:
    for number, part in enumerate(parts):
        if number:
            yield gap
        yield part


def _marked(text: str | None) -> Text:
    """The one mark of Markdown that the help has: between backticks is code."""
    marked = Text()
    for number, part in enumerate(" ".join((text or "").strip().split("\n")).split("`")):
        marked.append(part, style=CODE if number % 2 else "")
    return marked
