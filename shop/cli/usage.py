"""Wrong usage is one line, or one JSON object, before anything of the shop is imported."""

import typer


def tell(error: typer.TyperException | typer.Abort) -> None:
    """End the process with what is wrong with the words that it was given; the help of a group is shown already."""
    from shop.cli.output import fail

    if isinstance(error, typer.Abort):
        fail("aborted", code="aborted")
    context = getattr(error, "ctx", None)
    said = error.format_message().strip()
    if not said:  # A group without a command: its help was shown.
        raise SystemExit(error.exit_code)
    usage = "" if context is None else f" {context.get_usage()}; `{context.command_path} --help` explains it"
    fail(" ".join(f"{said}{usage}".split()), code="usage", status=error.exit_code)
