"""What every refusal is, and the one that carries a limit; the others are in `shop.errors`."""

import math
import random
from typing import Any

from shop.problem_members import Member

RETRY_SPREAD_SECONDS_MIN, RETRY_SPREAD_SECONDS_MAX = 1, 3
# A sale may start in years; nobody waits so long, and not every client can count so far.
RETRY_AFTER_SECONDS_MAX = 24 * 3600


class ShopError(Exception):
    """A refusal with a status, a stable code and a title.

    `extra` becomes members of the problem document; a class names in `members` those that its refusals may have.
    """

    status: int = 500
    code: str = "internal_error"
    title: str = "Something went wrong"
    members: tuple[Member, ...] = ()
    retry_after: float | None = None
    replayed: bool = False
    """Whether an earlier request with the same `Idempotency-Key` was told this."""

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.extra = extra
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the answer, `Retry-After` jittered so that a crowd does not come back as one."""
        told_before = {"Idempotency-Replayed": "true"} if self.replayed else {}
        if self.retry_after is None:
            return told_before
        spread = max(RETRY_SPREAD_SECONDS_MIN, min(round(self.retry_after / 2), RETRY_SPREAD_SECONDS_MAX))
        seconds = math.ceil(min(self.retry_after, RETRY_AFTER_SECONDS_MAX)) + random.randint(0, spread)  # noqa: S311 - no secret
        return {"Retry-After": str(max(1, seconds)), **told_before}


class RateLimited(ShopError):
    """`policy` names the limit, which admits `quota` requests in `window_seconds`."""

    status, code, title = 429, "rate_limited", "Too many requests"
    retry_after = 1.0

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after: float | None = None,
        policy: str = "requests",
        quota: int = 1,
        window_seconds: int = 1,
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self._policy, self._quota, self._window_seconds = policy, quota, window_seconds

    @property
    def headers(self) -> dict[str, str]:
        """With `RateLimit`, whose t equals `Retry-After`, and `RateLimit-Policy` (IETF draft ratelimit-headers-11)."""
        headers = super().headers
        return {
            **headers,
            "RateLimit": f'"{self._policy}";r=0;t={headers["Retry-After"]}',
            "RateLimit-Policy": f'"{self._policy}";q={self._quota};w={self._window_seconds}',
        }
