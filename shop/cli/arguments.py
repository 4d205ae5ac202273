"""What several commands are given."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from shop.bounds import within_horizon


def time(text: str) -> datetime:
    """A time as in ISO 8601, UTC unless it names a zone. Raises typer.BadParameter outside of `shop.bounds`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("a time is written as 2030-01-01T12:00:00, or with +02:00 behind it") from None
    try:
        return within_horizon(at if at.tzinfo else at.replace(tzinfo=UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Time = Annotated[datetime | None, typer.Option(parser=time, metavar="TIME", help="A time, UTC unless it names a zone.")]
