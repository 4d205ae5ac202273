"""The rules of accounts that the command line uses too."""

import asyncio
import re
import time

import pytest
from sqlalchemy import select

from shop.database import Database
from shop.errors import EmailTaken, WrongCredentials
from shop.settings import Settings
from shop.users import service
from shop.users.models import Role, User
from shop.users.passwords import Passwords

PASSWORD = "correct horse battery"


def test_ids_are_short_and_plain() -> None:
    """Redis keeps one with every order, so they have twelve characters of which none can be taken for another."""
    ids = {service.new_user_id() for _ in range(10_000)}

    assert len(ids) == 10_000
    assert all(re.fullmatch(r"[0-9a-hjkmnp-tv-z]{12}", each) for each in ids)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Ada@Example.COM", "ada@example.com"),
        ("  ada@shop.local ", "ada@shop.local"),
        ("ada@xn--bcher-kva.example.com", "ada@bücher.example.com"),
        ("ADA@BÜCHER.example.com", "ada@bücher.example.com"),
        ("no address", "no address"),
        ("e\u0301va@bu\u0308cher.example.com", "\u00e9va@b\u00fccher.example.com"),
        ("\u00c9va@XN--BCHER-KVA.example.com", "\u00e9va@b\u00fccher.example.com"),
        # The small letter is one character with its accent, the capital is two.
        ("J\u030cane@example.com", "\u01f0ane@example.com"),
        ("\u0130@example.com", "i\u0307@example.com"),
    ],
)
def test_an_address_has_one_form(written: str, kept: str) -> None:
    assert service.canonical_email(written) == kept
    assert service.canonical_email(kept) == kept


async def test_of_many_who_register_one_address_at_once_one_gets_it(database: Database, settings: Settings) -> None:
    passwords = Passwords(settings)

    async def register(email: str) -> User:
        async with database.transaction() as session:
            return await service.register(session, passwords, email=email, password=PASSWORD)

    answers = await asyncio.gather(
        *(register(email) for email in ["ada@example.com", "ADA@example.com"] * 4), return_exceptions=True
    )

    assert sum(isinstance(answer, User) for answer in answers) == 1
    assert sum(isinstance(answer, EmailTaken) for answer in answers) == 7
    passwords.close()


async def test_the_command_line_can_make_an_admin(database: Database, settings: Settings) -> None:
    passwords = Passwords(settings)
    async with database.transaction() as session:
        made = await service.register(session, passwords, email="root@shop.local", password=PASSWORD, role=Role.ADMIN)

    user = await service.sign_in(database, passwords, email="Root@Shop.local", password=PASSWORD)

    assert (user.id, user.role) == (made.id, "admin")
    passwords.close()


async def test_many_shoppers_are_made_without_hashing(database: Database, settings: Settings) -> None:
    """And nobody can sign in as one of them."""
    started = time.monotonic()
    async with database.transaction() as session:
        ids = await service.make_shoppers(session, 10_001)
    assert time.monotonic() - started < 10
    async with database.transaction() as session:
        rows = {row.id: row for row in await session.scalars(select(User).where(User.id.in_(ids[-2:])))}

    assert len(set(ids)) == 10_001
    assert rows[ids[-1]].email == f"shopper-{ids[-1]}@example.invalid"
    assert rows[ids[-1]].role == "shopper"
    passwords = Passwords(settings)
    with pytest.raises(WrongCredentials):
        await service.sign_in(database, passwords, email=rows[ids[-1]].email, password="!")
    passwords.close()
