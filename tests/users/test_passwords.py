"""Hashing is slow on purpose, so it is bounded, and its time tells nothing."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from shop.errors import Overloaded
from shop.settings import Settings
from shop.users.passwords import UNUSABLE, Passwords


@pytest.fixture
def passwords(settings: Settings) -> Iterator[Passwords]:
    passwords = Passwords(settings.model_copy(update={"hashing_threads": 1, "hashing_queue_max": 4}))
    yield passwords
    passwords.close()


async def test_a_hash_belongs_to_its_password_alone(passwords: Passwords) -> None:
    kept = await passwords.hash("correct horse battery")

    assert await passwords.verify(kept, "correct horse battery")
    assert not await passwords.verify(kept, "correct horse batterx")
    assert kept != await passwords.hash("correct horse battery")


async def test_hashes_have_the_parameters_of_owasp(passwords: Passwords) -> None:
    kept = await passwords.hash("correct horse battery")

    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_an_account_without_a_usable_hash_costs_as_much_as_any(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same work is done, so the time of an answer does not tell whether there is such an account."""
    verified: list[str] = []
    verify = type(passwords._hasher).verify

    def count(self: object, kept: str, password: str) -> bool:
        verified.append(kept)
        return verify(passwords._hasher, kept, password)

    monkeypatch.setattr(type(passwords._hasher), "verify", count)
    for kept in (None, UNUSABLE):
        assert not await passwords.verify(kept, UNUSABLE)

    assert len(verified) == 2
    assert all(each.startswith("$argon2id$v=19$m=19456,t=2,p=1$") for each in verified)


async def test_a_damaged_hash_fits_no_password(passwords: Passwords) -> None:
    for kept in ("", "$argon2id$", "plain text"):
        assert not await passwords.verify(kept, "plain text")


async def test_a_crowd_of_sign_ins_is_refused_beyond_the_bound(passwords: Passwords) -> None:
    """One hashes, four wait, the others are told at once to come back."""
    answers = await asyncio.gather(
        *(passwords.hash("correct horse battery") for _ in range(50)), return_exceptions=True
    )

    assert sum(isinstance(answer, str) for answer in answers) == 5
    assert sum(isinstance(answer, Overloaded) for answer in answers) == 45
    assert await passwords.hash("correct horse battery")


async def test_callers_who_leave_still_count_until_their_thread_is_free(passwords: Passwords) -> None:
    tasks = [asyncio.create_task(passwords.hash("correct horse battery")) for _ in range(5)]
    await asyncio.sleep(0)
    running = tasks[0]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    assert running.cancelled()
    assert passwords._under_way >= 1
    assert await passwords.hash("correct horse battery")
    deadline = time.monotonic() + 5
    while passwords._under_way:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
