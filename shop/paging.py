"""Pages of long tables, the newest first, read from indexes alone: what a page costs does not grow with the table.

A list whose filters no one index answers is the union of several queries that one answers each, such as one for each
status: each gives its newest rows, and the page is the newest of those.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import ColumnElement, Select, Subquery, literal, tuple_, union_all
from sqlalchemy.orm import InstrumentedAttribute

from shop.bounds import Limit, Time
from shop.errors import Invalid

Row = TypeVar("Row")


class ListQuery(BaseModel):
    """What every list of admins may be asked: how many, and of which time. Each adds its filters and its cursor."""

    model_config = ConfigDict(extra="forbid")

    limit: Limit = 20
    created_from: Time | None = Field(None, description="Only what was made at this time or later.")
    created_before: Time | None = Field(None, description="Only what was made before this time.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.created_from and self.created_before and self.created_from >= self.created_before:
            raise ValueError("created_from must be before created_before")
        return self


class Position(NamedTuple):
    """A position in the order of time; the id decides between rows of one moment."""

    at: datetime
    id: Any


def position_after(starting_after: object, at: datetime | None) -> Position | None:
    """The position of the cursor's row, which was made `at`. Raises Invalid when there is no such row."""
    if starting_after is None:
        return None
    if at is None:
        raise Invalid("starting_after names no row of this list")
    return Position(at, starting_after)


def bounded(query: Select[datetime, Any], asked: ListQuery, after: Position | None) -> Select[datetime, Any]:
    """The newest rows of a query of (at, id) that the page may have, and one more, which tells that there are more."""
    at, key = query.selected_columns
    if asked.created_from is not None:
        query = query.where(at >= asked.created_from)
    if asked.created_before is not None:
        query = query.where(at < asked.created_before)
    if after is not None:
        query = query.where(tuple_(at, key) < tuple_(literal(after.at, at.type), literal(after.id, key.type)))
    return query.order_by(at.desc(), key.desc()).limit(asked.limit + 1)


def newest(queries: Sequence[Select[datetime, Any]], asked: ListQuery, after: Position | None) -> Subquery:
    """The newest rows of all these queries of (at, id), as a table of two such columns."""
    found = union_all(*(bounded(query, asked, after) for query in queries)).subquery()
    at, key = found.columns
    return found.select().order_by(at.desc(), key.desc()).limit(asked.limit + 1).subquery("page")


def newest_first(page: Subquery) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """The order in which the rows of a page are told."""
    at, key = page.columns
    return at.desc(), key.desc()


def is_among(column: InstrumentedAttribute[Any], page: Subquery) -> ColumnElement[bool]:
    """Whether a row is in the page, by its id."""
    condition: ColumnElement[bool] = column == list(page.columns)[1]
    return condition


def cut(rows: Sequence[Row], limit: int) -> tuple[Sequence[Row], bool]:
    """The rows of the page, and whether there are more."""
    return rows[:limit], len(rows) > limit


def next_link(path: str, query: str) -> dict[str, str]:
    """The header that says where the next page is (RFC 8288)."""
    return {"Link": f'<{path}?{query}>; rel="next"'}


def link_next(request: Request, response: Response, last_id: object | None, **query: object) -> None:
    """Say where the page after `last_id` is, with the query of this one, in which this is new; if there is one."""
    if last_id is not None:
        url = request.url.include_query_params(**query, starting_after=last_id)
        response.headers.update(next_link(url.path, url.query))
