"""The rules of the sandbox: what becomes of an intent, once for each key, and the event that tells of it."""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from shop.sandbox.behaviour import Behaviour, Dice
from shop.sandbox.records import Event, Intent, Refund
from shop.sandbox.refusal import Refused
from shop.sandbox.repository import Books

HELD_BACK_SECONDS_MAX = 1.0


class Provider:
    """The books, how it behaves, and where the webhooks go; `tell` is called when there is an event to send."""

    def __init__(self, books: Books, behaviour: Behaviour, *, webhook_url: str | None) -> None:
        self.books = books
        self.webhook_url = webhook_url
        self.tell: Callable[[], None] = lambda: None
        self.behave(behaviour)

    def behave(self, behaviour: Behaviour) -> None:
        """Have these faults from now on, and no others."""
        self.behaviour = behaviour
        self.dice = Dice(behaviour)

    def create(
        self, *, key: str, order_id: str, amount_minor: int, currency: str, return_url: str | None = None
    ) -> tuple[Intent, bool]:
        """The intent of this key, and whether it is new. Raises Refused (idempotency_mismatch)."""
        with self.books.transaction():
            if found := self.books.find_by_key(key):
                if (found.order_id, found.amount_minor, found.currency) != (order_id, amount_minor, currency):
                    raise _mismatch()
                return found, False
            intent_id = _new_id("pi")
            self.books.add_intent(
                intent_id=intent_id,
                key=key,
                order_id=order_id,
                amount_minor=amount_minor,
                currency=currency,
                created_at=_now(),
            )
            if return_url is not None:
                self.books.add_return(intent_id, return_url)
            return self._recorded("payment.created", intent_id), True

    def read(self, intent_id: str) -> Intent:
        """The intent. Raises Refused (not_found)."""
        found = self.books.find(intent_id)
        if found is None:
            raise Refused(404, "not_found", "There is no such intent")
        return found

    def cancel(self, intent_id: str) -> Intent:
        """See that it is never paid; twice is once. Raises Refused (already_captured)."""
        with self.books.transaction():
            intent = self.read(intent_id)
            if intent.status == "captured":
                raise Refused(409, "already_captured", "The intent is paid; a refund gives the money back")
            if intent.status == "cancelled":
                return intent
            self.books.move(intent_id, status="cancelled", attempts=intent.attempts)
            return self._recorded("payment.cancelled", intent_id)

    def attempt(self, intent_id: str, *, pays: bool) -> Intent:
        """What a shopper does: pay, or have a card that is declined. A paid intent stays as it is.

        Raises Refused (intent_cancelled, or payment_declined, after which the intent can still be paid).
        """
        with self.books.transaction():
            intent = self.read(intent_id)
            if intent.status == "cancelled":
                raise Refused(409, "intent_cancelled", "The intent was cancelled; it cannot be paid")
            if intent.status == "captured":
                return intent
            captured = pays and not self.dice.decides("decline_share")
            self.books.move(intent_id, status="captured" if captured else "open", attempts=intent.attempts + 1)
            intent = self._recorded("payment.captured" if captured else "payment.failed", intent_id)
        if not captured:
            raise Refused(402, "payment_declined", "The payment was declined; it can be tried again")
        return intent

    def refund(self, intent_id: str, *, key: str, amount_minor: int) -> tuple[Refund, bool]:
        """The refund of this key, and whether it is new.

        Raises Refused (idempotency_mismatch, not_captured, refund_too_large).
        """
        with self.books.transaction():
            intent = self.read(intent_id)
            for refund in intent.refunds:
                if refund.key == key:
                    if refund.amount_minor != amount_minor:
                        raise _mismatch()
                    return refund, False
            if intent.status != "captured":
                raise Refused(409, "not_captured", "There is no money to give back")
            left_minor = intent.captured_minor - intent.refunded_minor
            if amount_minor > left_minor:
                raise Refused(422, "refund_too_large", f"Only {left_minor} can be given back", left_minor=left_minor)
            refund = Refund(_new_id("re"), key, amount_minor)
            self.books.add_refund(intent_id, refund)
            self._recorded("payment.refunded", intent_id)
            return refund, True

    def events(self, *, after: int, limit: int) -> tuple[list[Event], bool]:
        """The events after this number, and whether there are more than these."""
        found = self.books.events_after(after, limit + 1)
        return found[:limit], len(found) > limit

    def _recorded(self, kind: str, intent_id: str) -> Intent:
        """The intent as it is now, with an event of it that is recorded in the same transaction."""
        intent = self.read(intent_id)
        due_seconds = time.time() + self.dice.delay_seconds()
        lost = self.dice.decides("lose_share")
        copies = 2 if self.dice.decides("duplicate_share") else 1
        held = self.dice.decides("reorder_share") and not lost and not self.books.holds_back(intent_id)
        if held:
            due_seconds += HELD_BACK_SECONDS_MAX
        self.books.add_event(
            event_id=_new_id("evt"),
            kind=kind,
            intent=intent,
            created_at=_now(),
            webhook="off" if self.webhook_url is None else "lost" if lost else "waiting",
            copies=copies,
            due_ms=int(due_seconds * 1_000),
            held=held,
        )
        self.tell()
        return intent


def _mismatch() -> Refused:
    return Refused(422, "idempotency_mismatch", "This key was used before with another body")


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
