"""The rules of accounts, for the API and the command line alike."""

import asyncio
import secrets
import unicodedata

import structlog
from email_validator import EmailNotValidError, validate_email
from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import record_admin_event
from shop.auth import Actor, BlockedUsers
from shop.database import Database
from shop.errors import EmailTaken, UserBlocked, UserNotFound, WrongCredentials
from shop.settings import Settings
from shop.stopping import rest
from shop.users import repository
from shop.users.models import Role, User
from shop.users.passwords import UNUSABLE, Passwords
from shop.users.repository import Fingerprint

# Crockford's base 32, in lower case: no letter can be taken for a digit.
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# Short, because Redis keeps the id with every order; 60 random bits, so that nobody guesses one.
USER_ID_LENGTH = 12
SHOPPERS_PER_STATEMENT = 10_000
# RFC 2606 reserves it: no mail can ever be sent there.
SHOPPER_EMAIL_DOMAIN = "example.invalid"

_log = structlog.get_logger(__name__)


def new_user_id() -> str:
    """An id that was never used."""
    bits = secrets.randbits(5 * USER_ID_LENGTH)
    return "".join(ALPHABET[bits >> 5 * place & 31] for place in range(USER_ID_LENGTH))


def canonical_email(text: str) -> str:
    """The one form of an address under which its account is kept and found."""
    try:
        text = validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError:
        # The operator may name accounts as he likes, such as admin@shop.local.
        text = unicodedata.normalize("NFC", text.strip())
    return text.lower()


async def register(
    session: AsyncSession, passwords: Passwords, *, email: str, password: str, role: Role = Role.SHOPPER
) -> User:
    """Make an account. Raises EmailTaken, or Overloaded when too many passwords wait to be hashed."""
    password_hash = await passwords.hash(password)
    user = await repository.add(
        session, user_id=new_user_id(), email=canonical_email(email), password_hash=password_hash, role=role
    )
    if user is None:
        raise EmailTaken
    return user


async def sign_in(database: Database, passwords: Passwords, *, email: str, password: str) -> User:
    """The account of these credentials. Raises WrongCredentials, UserBlocked, or Overloaded.

    It takes the database instead of a session: no connection is held while the password is hashed.
    """
    async with database.transaction() as session:
        user = await repository.find_by_email(session, canonical_email(email))
    right = await passwords.verify(user.password_hash if user else None, password)
    if user is None or not right:
        raise WrongCredentials
    if user.blocked_at is not None:
        raise UserBlocked
    return user


async def account(session: AsyncSession, user_id: str) -> User:
    """The account with this id. Raises UserNotFound."""
    user = await repository.find(session, user_id)
    if user is None:
        raise UserNotFound
    return user


async def set_blocked(session: AsyncSession, actor: Actor, *, user_id: str, blocked: bool) -> None:
    """Block an account, or lift the block; every process obeys within a second. Twice is the same as once.

    Raises UserNotFound.
    """
    changed = await (repository.block if blocked else repository.unblock)(session, user_id)
    if changed:
        action = "user.blocked" if blocked else "user.unblocked"
        record_admin_event(session, actor, action=action, subject="user", subject_id=user_id)
    elif await repository.find(session, user_id) is None:
        raise UserNotFound


async def make_shoppers(session: AsyncSession, count: int) -> list[str]:
    """The ids of `count` new accounts that nobody can sign in to; their tokens are signed directly, for load tests."""
    ids = [new_user_id() for _ in range(count)]
    for start in range(0, count, SHOPPERS_PER_STATEMENT):
        chunk = ids[start : start + SHOPPERS_PER_STATEMENT]
        await repository.add_shoppers(session, chunk, email_domain=SHOPPER_EMAIL_DOMAIN, password_hash=UNUSABLE)
    return ids


async def blocked_ids(session: AsyncSession) -> frozenset[str]:
    """Every blocked account."""
    return await repository.blocked_ids(session)


async def blocked_fingerprint(session: AsyncSession) -> Fingerprint:
    """What changes whenever the set of blocked accounts does, and costs little to read."""
    return await repository.blocked_fingerprint(session)


async def follow_blocked(
    database: Database, blocked: BlockedUsers, settings: Settings, stopping: asyncio.Event
) -> None:
    """Keep `blocked` equal to what Postgres says, until `stopping` is set.

    While Postgres cannot be read, the last known set counts.
    """
    seen: Fingerprint | None = None
    failing = False
    while not stopping.is_set():
        try:
            seen = await _read_blocked(database, blocked, seen)
            failing = False
        except Exception as error:  # noqa: BLE001 - if this loop ended, a later block would never take effect
            if not failing:
                _log.warning("blocked_users_not_read", error=repr(error))
            failing = True
        await rest(stopping, settings.blocked_poll_seconds)


async def _read_blocked(database: Database, blocked: BlockedUsers, seen: Fingerprint | None) -> Fingerprint:
    async with database.transaction() as session:
        # Before the set: a block between the two reads is then seen by the next poll.
        fingerprint = await blocked_fingerprint(session)
        if fingerprint != seen:
            blocked.replace(await blocked_ids(session))
    return fingerprint
