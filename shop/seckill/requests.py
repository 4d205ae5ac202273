"""What a purchase may look like: its body and its path. Everything is checked before it comes near a script."""

from functools import lru_cache
from typing import Annotated

import msgspec

from shop.errors import BadRequest, Invalid
from shop.seckill.order_ids import SALE_ID_MAX

QUANTITY_MAX = 10_000
PATH_START, PATH_END = "/v1/seckill/sales/", "/orders"
SALE_ID_DIGITS_MAX = 10


class PurchaseBody(msgspec.Struct, forbid_unknown_fields=True):
    """How many units the buyer wants."""

    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)] = 1


_body_decoder = msgspec.json.Decoder(PurchaseBody)


@lru_cache(maxsize=4096)
def sale_in_path(path: str) -> int | None:
    """The sale that a purchase path names; None for any other path."""
    if not (path.startswith(PATH_START) and path.endswith(PATH_END)):
        return None
    digits = path[len(PATH_START) : -len(PATH_END)]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= SALE_ID_DIGITS_MAX):
        return None
    sale_id = int(digits)
    return sale_id if sale_id <= SALE_ID_MAX else None


def parse_body(body: bytes) -> PurchaseBody:
    """The wish. Raises BadRequest when it is not JSON, Invalid when it breaks a rule."""
    try:
        return _body_decoder.decode(body)
    except msgspec.ValidationError as error:
        reason, _, pointer = str(error).partition(" - at `$")
        raise Invalid(
            "The body breaks a rule",
            errors=[{"pointer": pointer.rstrip("`").replace(".", "/"), "detail": reason, "code": "invalid"}],
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("The body is not JSON") from error
