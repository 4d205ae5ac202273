"""What a page costs does not grow with the table, whatever is asked for: Postgres itself says what it has read."""

from functools import partial
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database
from tests.api.listing.conftest import ROWS
from tests.api.listing.filters import LISTS, Listed
from tests.api.listing.rows import TABLES
from tests.plans import nodes, plans_of, rows_read

# Far more than a page of 20, of each status and kind; far less than to look for rare rows among the others.
ROWS_READ_MAX = ROWS // 20
# These read all addresses with a beginning, or all that a user has bought, or all of that time: whichever costs less.
ALL_OF_A_TIME = {
    (listed, name, time)
    for listed, name in (("users", "email_prefix"), ("payments", "user_id"))
    for time in ("created_from", "created_before")
}


async def _page(listed: Listed, asked: Any, session: AsyncSession) -> object:
    return await listed.page(session, asked)


@pytest.mark.parametrize("listed", LISTS, ids=lambda listed: listed.name)
async def test_a_page_reads_as_many_rows_as_it_shows_and_not_the_table(many: Database, listed: Listed) -> None:
    """However rare what is asked for is: each filter alone, and each two together."""
    dear = {}
    async with many.transaction() as session:
        for question in listed.questions():
            asked = listed.asked.model_validate(question)
            for plan in await plans_of(session, partial(_page, listed, asked)):
                whole = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
                read = rows_read(plan)
                bounded = (listed.name, *question) not in ALL_OF_A_TIME
                if (bounded and read > ROWS_READ_MAX) or set(whole) & (set(TABLES) - {"sales"}):
                    dear[str(question)] = (read, whole)

    assert dear == {}
