"""How commands list: the filters of the API, one page, and where the next one begins."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, TypeVar, cast

import typer
from pydantic import BaseModel

from shop.bounds import PAGE_MAX
from shop.cli.output import emit, warn
from shop.paging import ListQuery

LimitOption = Annotated[int, typer.Option("--limit", min=1, max=PAGE_MAX, help="How many to show.")]
AfterOption = Annotated[str | None, typer.Option("--starting-after", help="The last id of the page before.")]
FromOption = Annotated[
    str | None, typer.Option("--created-from", help="At this time or later, as 2030-01-01T12:00:00Z.")
]
BeforeOption = Annotated[str | None, typer.Option("--created-before", help="Before this time.")]
Query = TypeVar("Query", bound=ListQuery)


class Page(Protocol):
    """A page of the API."""

    data: Any
    has_more: bool


def query(kind: type[Query], **filters: object) -> Query:
    """What is asked for, by the rules of the API. Raises ValidationError, which names the filter."""
    return kind.model_validate({name: value for name, value in filters.items() if value is not None})


def show(page: Page, columns: Sequence[str], *, as_json: bool, cursor: str = "id") -> None:
    """Print a page: the API's JSON, or these columns of it; the next page is named beside it."""
    plain = cast(BaseModel, page).model_dump(mode="json")
    rows = plain["data"]
    emit(plain if as_json else [{name: row[name] for name in columns} for row in rows], as_json=as_json)
    if page.has_more:
        warn(f"there are more: --starting-after {rows[-1][cursor]}")
