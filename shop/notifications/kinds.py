"""What can be told, and where it can be told."""

from collections.abc import Mapping
from enum import StrEnum

from shop.orders.models import OrderStatus


class Kind(StrEnum):
    """What happened. Webhooks may ask for all but the first."""

    WELCOME = "user.welcome"
    RESERVED = "order.reserved"
    EXPIRING_SOON = "order.expiring_soon"
    PAID = "order.paid"
    CANCELLED = "order.cancelled"
    EXPIRED = "order.expired"
    REFUNDED = "order.refunded"


class Sink(StrEnum):
    """Where notifications go."""

    LOG = "log"
    MAIL = "mail"
    WEBHOOK = "webhook"


ORDER_KINDS: tuple[Kind, ...] = tuple(kind for kind in Kind if kind is not Kind.WELCOME)
# What an event of an order means. Words that are not here are passed over.
OF_STATUS: Mapping[str, Kind] = {
    OrderStatus.RESERVED: Kind.RESERVED,
    OrderStatus.PAID: Kind.PAID,
    OrderStatus.CANCELLED: Kind.CANCELLED,
    OrderStatus.EXPIRED: Kind.EXPIRED,
    OrderStatus.REFUNDED: Kind.REFUNDED,
    "money_returned": Kind.REFUNDED,
}
