"""The two users of Redis and their rights: neither can bring in code of its own by EVAL, look around, or forget.

The API sends EVALSHA: it runs the scripts that the worker has loaded and no others. Redis checks the commands of a
script against the rights of its caller, so each user has those as well; what is not named here is refused. Who uses
another command adds it here, to the user that needs it, and to docker-compose.yml; a test compares the two.
"""

import hashlib
import secrets
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

PASSWORD_BYTES = 32
CHANNELS = "shop:*"

_SCRIPTS = (
    "bitfield",
    "evalsha",
    "script|exists",
    "del",
    "exists",
    "hget",
    "hmget",
    "hset",
    "mget",
    "set",
    "setbit",
    "strlen",
    "time",
)
_STREAM = ("xadd", "xlen", "xrange")
_CONNECTION = ("auth", "hello", "ping", "select", "multi", "exec", "info")
_READS = ("exists", "get", "hgetall", "hvals")
_CACHE = ("pexpire",)
_HOT = ("zincrby", "zremrangebyrank", "zremrangebyscore", "zrevrange", "zunionstore")
_NEWS = ("publish", "subscribe", "unsubscribe")
_SIDE = (*_CACHE, *_HOT, *_NEWS)
_PERSISTER = ("hdel", "script|load", "xread", "xtrim")
_RECOVERY = ("hlen", "hscan", "unlink")
_ARQ = (
    "dbsize", "exists", "expire", "incrby", "psetex", "setex", "unwatch", "watch",
    "zadd", "zcard", "zincrby", "zrange", "zrangebyscore", "zrem", "zremrangebyscore", "zscore",
)  # fmt: skip


@dataclass(frozen=True)
class RedisUser:
    """A user by name, the patterns of the keys that it may touch, and the commands that it may send."""

    name: str
    keys: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def rules(self) -> str:
        """The rights in the language of `ACL SETUSER`."""
        keys = " ".join(f"~{pattern}" for pattern in self.keys)
        return f"{keys} resetchannels &{CHANNELS} -@all {' '.join(f'+{command}' for command in self.commands)}"


API = RedisUser("shop-api", ("shop:*",), tuple(sorted({*_CONNECTION, *_SCRIPTS, *_STREAM, *_READS, *_SIDE})))
WORKER = RedisUser("shop-worker", ("shop:*", "arq:*"), tuple(sorted({*API.commands, *_PERSISTER, *_RECOVERY, *_ARQ})))

# Whoever has no password may ask whether the server answers.
DEFAULT_USER_OFF = "user default on nopass resetkeys resetchannels -@all +ping"


@dataclass(frozen=True)
class Logins:
    """The passwords of the two users on one server."""

    api_password: str
    worker_password: str

    @classmethod
    def random(cls) -> "Logins":
        """Passwords that nobody has seen."""
        return cls(secrets.token_hex(PASSWORD_BYTES), secrets.token_hex(PASSWORD_BYTES))

    @property
    def lines(self) -> list[str]:
        """The users for a server's ACL file, which holds only the passwords' hashes."""
        return [_line(API, self.api_password), _line(WORKER, self.worker_password)]

    def api_url(self, url: str) -> str:
        """This server's URL as the API has it."""
        return _with_user(url, API, self.api_password)

    def worker_url(self, url: str) -> str:
        """This server's URL as the worker has it."""
        return _with_user(url, WORKER, self.worker_password)


def _line(user: RedisUser, password: str) -> str:
    return f"user {user.name} on #{hashlib.sha256(password.encode()).hexdigest()} {user.rules}"


def _with_user(url: str, user: RedisUser, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user.name}:{quote(password, safe='')}@{host}"))
