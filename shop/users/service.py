"""The rules of accounts, for the API and the command line alike."""

import secrets
import unicodedata

from email_validator import EmailNotValidError, validate_email
from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import record_admin_event
from shop.auth import Actor
from shop.database import Database
from shop.errors import EmailTaken, LastAdmin, Overloaded, UserBlocked, UserNotFound, WrongCredentials, WrongPassword
from shop.users import repository
from shop.users.models import Role, User
from shop.users.passwords import UNUSABLE, Match, Passwords

# Crockford's base 32, in lower case: no letter can be taken for a digit.
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# Short, because Redis keeps the id with every order; 60 random bits, so that nobody guesses one.
USER_ID_LENGTH = 12
SHOPPERS_PER_STATEMENT = 10_000
# RFC 2606 reserves it: no mail can ever be sent there.
SHOPPER_EMAIL_DOMAIN = "example.invalid"


def new_user_id() -> str:
    """An id that was never used."""
    bits = secrets.randbits(5 * USER_ID_LENGTH)
    return "".join(ALPHABET[bits >> 5 * place & 31] for place in range(USER_ID_LENGTH))


def canonical_email(text: str) -> str:
    """The one form of an address under which its account is kept and found."""
    try:
        text = validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError:
        # The operator may name accounts as they like, such as admin@shop.local.
        text = text.strip()
    return small_letters(text)


def small_letters(text: str) -> str:
    """In NFC: a small letter may be one character with its accent where the capital is two."""
    return unicodedata.normalize("NFC", text.lower())


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
    match = await passwords.verify(user.password_hash if user else None, password)
    if user is None or not match:
        raise WrongCredentials
    if user.blocked_at is not None:
        raise UserBlocked
    if match is Match.RAW:
        await _hash_normal_form(database, passwords, user, password)
    return user


async def _hash_normal_form(database: Database, passwords: Passwords, user: User, password: str) -> None:
    """Replace a hash of the time before the one form, so that the password is good from every keyboard."""
    try:
        password_hash = await passwords.hash(password)
    except (ValueError, Overloaded):  # it may not be new, or: the next sign-in tries again
        return
    async with database.transaction() as session:
        await repository.replace_hash(session, user.id, before=user.password_hash, after=password_hash)


async def change_password(database: Database, passwords: Passwords, user: User, *, current: str, new: str) -> User:
    """Change the password of an account, which ends its tokens. Raises WrongPassword, or Overloaded."""
    if not await passwords.verify(user.password_hash, current):
        raise WrongPassword
    password_hash = await passwords.hash(new)
    async with database.transaction() as session:
        unchanged = User.password_hash == user.password_hash
        changed = await repository.begin_generation(session, user.id, unchanged, password_hash=password_hash)
    if changed is None:
        raise WrongPassword
    return changed


async def set_password(session: AsyncSession, passwords: Passwords, actor: Actor, user_id: str, password: str) -> None:
    """Give an account another password, which ends its tokens. Raises UserNotFound, or Overloaded."""
    password_hash = await passwords.hash(password)
    if await repository.begin_generation(session, user_id, password_hash=password_hash) is None:
        raise UserNotFound
    record_admin_event(session, actor, action="user.password", subject="user", subject_id=user_id)


async def sign_out_everywhere(session: AsyncSession, user_id: str, *, actor: Actor | None = None) -> None:
    """End all tokens of an account; an admin who does it to another one is recorded. Raises UserNotFound."""
    if await repository.begin_generation(session, user_id) is None:
        raise UserNotFound
    if actor is not None:
        record_admin_event(session, actor, action="user.signed_out", subject="user", subject_id=user_id)


async def set_role(session: AsyncSession, actor: Actor, *, user_id: str, role: Role) -> User:
    """Give an account a role, which ends the tokens that name the one before. Twice is the same as once.

    Raises UserNotFound, or LastAdmin.
    """
    if role is not Role.ADMIN:
        await _keep_an_admin(session, user_id)
    changed = await repository.begin_generation(session, user_id, User.role != role, role=role)
    if changed is None:
        return await account(session, user_id)
    record_admin_event(session, actor, action="user.role", subject="user", subject_id=user_id, role=role)
    return changed


async def _keep_an_admin(session: AsyncSession, user_id: str) -> None:
    """Refuse what would leave nobody who can take it back. Raises LastAdmin."""
    if list(await repository.lock_admins(session)) == [user_id]:
        raise LastAdmin


async def account(session: AsyncSession, user_id: str) -> User:
    """The account with this id. Raises UserNotFound."""
    user = await repository.find(session, user_id)
    if user is None:
        raise UserNotFound
    return user


async def id_of(session: AsyncSession, name: str) -> str:
    """The id that is meant by an id or an e-mail address. Raises UserNotFound for an address that nobody has."""
    if "@" not in name:
        return name
    found = await repository.find_by_email(session, canonical_email(name))
    if found is None:
        raise UserNotFound
    return found.id


async def set_blocked(session: AsyncSession, actor: Actor, *, user_id: str, blocked: bool) -> None:
    """Block an account, or lift the block; every process obeys within a second. Twice is the same as once.

    Raises UserNotFound, or LastAdmin.
    """
    if blocked:
        await _keep_an_admin(session, user_id)
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
