"""Hashing is slow on purpose, so it is bounded, and its time tells nothing."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from shop.database import Database
from shop.errors import Overloaded
from shop.settings import Settings
from shop.users import repository, service
from shop.users.models import Role
from shop.users.passwords import UNUSABLE, Match, Passwords, normal_form

COMPOSED, DECOMPOSED = "Gr\u00fc\u00dfe aus K\u00f6ln", "Gru\u0308\u00dfe aus Ko\u0308ln"


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


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        (DECOMPOSED, COMPOSED),
        ("\u1112\u1161\u11ab passphrase", "\ud55c passphrase"),
        ("\u212bngstr\u00f6m and more", "\u00c5ngstr\u00f6m and more"),
        ("a\u0323\u0307 and a\u0307\u0323", "\u1ea1\u0307 and \u1ea1\u0307"),
        ("a\u00a0b\u3000c\u2003d\u1680e", "a b c d e"),
        ("Correct Horse \u00df \uff21", "Correct Horse \u00df \uff21"),
        (" spaces around ", " spaces around "),
    ],
)
def test_a_password_has_one_form_however_it_is_typed(typed: str, normal: str) -> None:
    """RFC 8265, OpaqueString: composed, one kind of space; case, width and spaces at the ends mean something."""
    assert normal_form(typed) == normal
    assert normal_form(normal) == normal


@pytest.mark.parametrize("control", ["\x00", "\t", "\n", "\x1b", "\x7f", "\x85", "\x9f"])
def test_a_new_password_has_no_control_characters(control: str) -> None:
    with pytest.raises(ValueError, match="control"):
        normal_form(f"correct{control}horse battery")


async def test_a_hash_is_the_one_of_every_spelling(passwords: Passwords) -> None:
    kept = await passwords.hash(COMPOSED)

    assert await passwords.verify(kept, DECOMPOSED) is Match.NORMAL
    assert await passwords.verify(kept, COMPOSED.replace(" ", "\u00a0")) is Match.NORMAL
    assert await passwords.verify(kept, COMPOSED.lower()) is Match.NONE


async def test_a_wrong_password_costs_as_much_as_one_of_nobody(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that has two forms, of which each is tried."""
    kept, hasher, verified = await passwords.hash("correct horse battery"), passwords._hasher, 0
    verify = type(hasher).verify

    def count(self: object, *arguments: str) -> bool:
        nonlocal verified
        verified += 1
        return verify(hasher, *arguments)

    monkeypatch.setattr(type(hasher), "verify", count)
    for typed, forms in ((COMPOSED, 1), (DECOMPOSED, 2), ("with\tcontrol", 1)):
        for of in (kept, None, UNUSABLE):
            verified = 0
            assert not await passwords.verify(of, typed)
            assert verified == forms, (typed, of)


@pytest.mark.parametrize(
    ("kept_of", "other_spelling"),
    [(DECOMPOSED, COMPOSED), ("wide\u3000 spaces", "wide  spaces"), ("tab\tbed word", "")],
)
async def test_a_hash_of_the_time_before_the_one_form_is_still_good_and_is_replaced(
    database: Database, settings: Settings, kept_of: str, other_spelling: str
) -> None:
    """After its first sign-in it is the one of every spelling; tokens are not ended by that."""
    passwords = Passwords(settings)
    kept = passwords._hasher.hash(kept_of)
    async with database.transaction() as session:
        await repository.add(session, user_id="ada", email="ada@example.com", password_hash=kept, role=Role.SHOPPER)

    for password in filter(None, (kept_of, other_spelling, kept_of)):
        user = await service.sign_in(database, passwords, email="ada@example.com", password=password)
        assert user.token_generation == 0

    async with database.transaction() as session:
        user_now = await service.account(session, "ada")
    assert (user_now.password_hash != kept) == bool(other_spelling)
    passwords.close()
