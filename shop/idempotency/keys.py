"""What an `Idempotency-Key` looks like. Known to the purchase path too, so nothing here may reach Postgres."""

import re

from shop.errors import IdempotencyKeyInvalid

IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,128}")


def parse_key(header: str) -> str:
    """The `Idempotency-Key`, bare or quoted. Raises IdempotencyKeyInvalid."""
    key = header[1:-1] if len(header) >= 2 and header[0] == header[-1] == '"' else header
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise IdempotencyKeyInvalid
    return key
