"""Who is asking: bearer tokens, what was taken back of them, and the dependencies that routers name.

`TokenVerifier` and `Revocations` know nothing of FastAPI: the purchase lane calls them for every request.
"""

import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import jwt
import msgspec
from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer

from shop.app_keys import AppKey
from shop.errors import Forbidden, Unauthorized, UserBlocked
from shop.settings import Settings
from shop.signatures import HmacSha256, base64url, from_base64url

ALGORITHM = "HS256"
# The claims that a token must have. `iat` is only informative: hosts' clocks differ by a little.
REQUIRED_CLAIMS = ("sub", "role", "iss", "aud", "exp")
SUBJECT = re.compile(r"[A-Za-z0-9_-]{1,64}")
TOKEN_BYTES_MAX = 4096
COMPACT_TOKEN = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
ADMIN = "admin"


# Greater than every generation: no token of a blocked user is new enough.
BLOCKED = 2**63


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The user that a valid token names; `expires_at` is in seconds since 1970.

    `generation` is the one that the user's tokens had when this was issued, see `Revocations`.
    """

    user_id: str
    role: str
    expires_at: int
    generation: int = 0


class _Claims(msgspec.Struct, forbid_unknown_fields=True):
    """Exactly what `issue_token` writes; the release before wrote no generation."""

    sub: str
    role: str
    iss: str
    aud: str
    iat: int
    exp: int
    generation: int = 0


def issue_token(settings: Settings, *, user_id: str, role: str, generation: int = 0) -> str:
    """A token that is good for `token_lifetime_seconds`, or until a later generation of this user's tokens begins."""
    now = int(time.time())
    claims: dict[str, str | int] = {
        "sub": user_id,
        "role": role,
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "iat": now,
        "exp": now + settings.token_lifetime_seconds,
        **({"generation": generation} if generation else {}),
    }
    return jwt.encode(claims, settings.secret, algorithm=ALGORITHM)


@dataclass(frozen=True)
class Actor:
    """Who acts: a user of the API, the command line, or the shop itself."""

    id: str
    address: str
    request_id: str = ""


COMMAND_LINE = Actor(id="cli", address="local")
CONTROLLER = Actor(id="controller", address="local")


class TokenVerifier:
    """Tells who a token names. It remembers the tokens it has accepted, at most `token_cache_max` of them."""

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.secret
        self._hmac = HmacSha256(settings.secret)
        self._issuer = settings.token_issuer
        self._audience = settings.token_audience
        self._accepted: OrderedDict[bytes, Identity] = OrderedDict()
        self._accepted_max = settings.token_cache_max
        self._decode_claims = msgspec.json.Decoder(_Claims).decode
        # Every token that this shop issues begins with the same header.
        self._own_header = jwt.encode({}, self._secret, algorithm=ALGORITHM).partition(".")[0].encode() + b"."

    def verify(self, token: str | bytes) -> Identity:
        """The identity of a valid token. Raises Unauthorized for anything else, whatever is wrong with it."""
        sent = _ascii(token)
        known = self._accepted.get(sent)
        if known is not None and known.expires_at > time.time():
            return known
        identity = self._verify_own(sent) or self._verify_any(sent)
        self._remember(sent, identity)
        return identity

    def _verify_own(self, token: bytes) -> Identity | None:
        """The identity, if this shop wrote the token; None hands it to the library, which is five times as slow.

        It accepts nothing that the library would refuse: the header is byte for byte the one of `issue_token`, and
        the claims are its claims and no others.
        """
        signed, _, signature = token.rpartition(b".")
        if not signed.startswith(self._own_header):
            return None
        if not hmac.compare_digest(base64url(self._hmac.digest(signed)), signature):
            return None
        try:
            claims = self._decode_claims(from_base64url(signed[len(self._own_header) :]))
        except ValueError:
            return None
        if claims.iss != self._issuer or claims.aud != self._audience:
            return None
        return _identity(claims.sub, claims.role, claims.exp, claims.generation)

    def _verify_any(self, token: bytes) -> Identity:
        # The library skips characters that are not of base64; one token would have endless spellings.
        if not COMPACT_TOKEN.fullmatch(token):
            raise Unauthorized
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                options={"require": list(REQUIRED_CLAIMS), "verify_iat": False},
            )
            generation = claims.get("generation", 0)
            if not isinstance(claims["sub"], str) or not isinstance(claims["role"], str) or type(generation) is not int:
                raise Unauthorized
            return _identity(claims["sub"], claims["role"], int(claims["exp"]), generation)
        except Exception as error:
            # Whatever a hostile token makes the library raise, a RecursionError too, is a refusal.
            raise Unauthorized from error

    def _remember(self, token: bytes, identity: Identity) -> None:
        if len(self._accepted) >= self._accepted_max:
            self._accepted.popitem(last=False)
        self._accepted[token] = identity


class Revocations:
    """What was taken back before it ran out, as last read from Postgres: who is blocked, and whose older tokens ended.

    A change of password or role, or signing out everywhere, begins a new generation of the user's tokens. Only a token
    of that generation or a later one is good. What follows the changes is `shop.users.revocation_feed`.
    """

    def __init__(self) -> None:
        # The least generation that is good, by user. One look-up answers both questions: purchases ask for each.
        self._least: dict[str, int] = {}
        # Called with the users of whom something was taken back: what stands open for them must be checked again.
        self.told: Callable[[Iterable[str]], None] = lambda user_ids: None

    def check(self, identity: Identity) -> None:
        """Whether this token is still good. Raises UserBlocked, or Unauthorized when it has ended."""
        least = self._least.get(identity.user_id)
        if least is None or identity.generation >= least:
            return
        if least == BLOCKED:
            raise UserBlocked
        raise Unauthorized("This token was revoked; sign in again")

    def good_seconds(self, identity: Identity) -> float:
        """How long this token is good from now on, for what stays open after it was checked; 0.0 if it is not."""
        if identity.generation < self._least.get(identity.user_id, 0):
            return 0.0
        return max(0.0, identity.expires_at - time.time())

    def replace(self, blocked: Iterable[str], generations: Mapping[str, int]) -> None:
        """From now on these users are blocked, these generations have begun, and nothing else was taken back."""
        before, self._least = self._least, {**generations, **dict.fromkeys(blocked, BLOCKED)}
        self.told([user_id for user_id, least in self._least.items() if before.get(user_id) != least])

    def begin(self, generations: Mapping[str, int]) -> None:
        """These generations have begun, besides what is known. A blocked user stays blocked."""
        for user_id, generation in generations.items():
            self._least[user_id] = max(generation, self._least.get(user_id, 0))
        self.told(generations)


def _ascii(token: str | bytes) -> bytes:
    if not 0 < len(token) <= TOKEN_BYTES_MAX or not token.isascii():
        raise Unauthorized
    return token.encode() if isinstance(token, str) else token


def _identity(subject: str, role: str, expires_at: int, generation: int) -> Identity:
    if not SUBJECT.fullmatch(subject) or expires_at <= time.time() or not 0 <= generation < BLOCKED:
        raise Unauthorized
    return Identity(subject, role, expires_at, generation)


VERIFIER = AppKey[TokenVerifier]("verifier")
REVOCATIONS = AppKey[Revocations]("revocations")

# The Authorize button of /docs asks this URL for a token.
_bearer = OAuth2PasswordBearer(tokenUrl="/v1/auth/token", auto_error=False)


async def _current_user(request: Request, token: Annotated[str | None, Depends(_bearer)]) -> Identity:
    identity = VERIFIER.of(request).verify(token or "")
    REVOCATIONS.of(request).check(identity)
    return identity


CurrentUser = Annotated[Identity, Depends(_current_user)]


async def _current_admin(user: CurrentUser) -> Identity:
    if user.role != ADMIN:
        raise Forbidden
    return user


CurrentAdmin = Annotated[Identity, Depends(_current_admin)]


async def _actor(request: Request, admin: CurrentAdmin) -> Actor:
    address = request.client.host if request.client else "local"
    return Actor(id=admin.user_id, address=address[:64], request_id=request.scope.get("request_id", "")[:128])


ActorDep = Annotated[Actor, Depends(_actor)]
