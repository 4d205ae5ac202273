"""A sandbox with empty books for each test; the server that shows them is shared, because it takes longer to start."""

from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from shop.sandbox.behaviour import Behaviour
from shop.sandbox.provider import Provider
from shop.sandbox.repository import Books
from shop.sandbox.server import SandboxPlan
from tests.payments.sandbox.running import HOST, Sandbox, sandbox_at, serving, settings_of_a_shop


@pytest.fixture(scope="session")
async def served_provider() -> AsyncIterator[Provider]:
    """The one of this run."""
    async with serving(settings_of_a_shop(), SandboxPlan(HOST, 0)) as provider:
        yield provider


@pytest.fixture
async def sandbox(served_provider: Provider) -> AsyncIterator[Sandbox]:
    """One without faults, and without webhooks."""
    used, url = served_provider.books, served_provider.books.public_url
    served_provider.behave(Behaviour())
    served_provider.webhook_url = None
    with closing(Books(None, public_url=url)) as books:
        served_provider.books = books
        async with sandbox_at(url, settings_of_a_shop()) as sandbox:
            yield sandbox
        served_provider.books = used
