"""What a sale must be: dicts and counts, no Redis, no Postgres. Written to be read, and to predict every answer.

It has a ledger, as Redis has it, and rows, as Postgres has them. Hours stand for moments. A sale is made at half past
zero, so that no window begins or ends while a test runs.
"""

from dataclasses import dataclass

from tests.invariants.ledger_model import ENDED, OPEN, PAUSED, Event, Held, Ledger
from tests.invariants.postgres_model import Claim, Postgres


@dataclass
class Model:
    """A whole sale."""

    ledger: Ledger
    postgres: Postgres

    def undrained(self) -> list[Event]:
        """What is in the stream and not yet recorded."""
        return [event for event in self.ledger.stream if event.seq > self.postgres.watermark]

    def drain(self, count: int) -> None:
        """Record up to so many events."""
        for event in self.undrained()[:count]:
            self.postgres.record(event)

    def trim(self) -> None:
        """Drop what is recorded, but for the entry with the last."""
        self.ledger.stream = [event for event in self.ledger.stream if event.entry >= self.postgres.watermark]

    def claim(self, epoch: int, order_id: bytes, seq: int, user: str, quantity: int) -> None:
        """Report a reservation; what is there already stays."""
        self.postgres.claims.setdefault((epoch, order_id), Claim(epoch, order_id, seq, user, quantity))

    def recover(self, survived: "Survived", *, highest_seen: int) -> bool:
        """A recovery of what survived, after the reservations were reported; whether a new epoch began."""
        postgres = self.postgres
        for event in survived.readable_after(postgres.watermark):
            postgres.record(event)
        self._sort_claims()
        highest = max([highest_seen, *(claim.seq for claim in postgres.claims.values() if self._is_of_epoch(claim))])
        if survived.is_whole(postgres, highest) and not self._pending():
            return False
        for order_id, entry in survived.orders.items():
            if entry.held and order_id not in postgres.orders:
                self.claim(postgres.epoch, order_id, entry.seq, entry.user, entry.quantity)
        self._sort_claims()
        highest = max([highest_seen, *(claim.seq for claim in postgres.claims.values() if self._is_of_epoch(claim))])
        self._renew(max(highest, survived.seq))
        return True

    def _is_of_epoch(self, claim: Claim) -> bool:
        """Whether the number of a claim is one of this epoch: an order of an earlier one keeps its own."""
        row = self.postgres.orders.get(claim.order_id)
        return claim.epoch == self.postgres.epoch and (row is None or row.epoch == claim.epoch)

    def _sort_claims(self) -> None:
        for claim in self.postgres.claims.values():
            recorded = claim.order_id in self.postgres.orders
            if claim.outcome == "honoured" and not recorded:
                claim.outcome = None
            if claim.outcome is None and recorded:
                claim.outcome = "recorded"

    def _pending(self) -> list[Claim]:
        pending = [claim for claim in self.postgres.claims.values() if claim.outcome is None]
        return sorted(pending, key=lambda claim: (claim.epoch, claim.order_id))

    def _renew(self, highest: int) -> None:
        postgres, old, pending = self.postgres, self.ledger, self._pending()
        explained = {claim.seq for claim in pending if claim.epoch == postgres.epoch and claim.seq > postgres.watermark}
        unexplained = max(highest - postgres.watermark - len(explained), 0)
        wanted = unexplained * old.units_per_user + sum(claim.quantity for claim in pending) + postgres.held_back
        postgres.release_owed()
        postgres.close_open_changes(postgres.units - postgres.units_taken - wanted)
        postgres.held_back = min(postgres.units - postgres.units_taken, wanted)
        opening = postgres.units - postgres.units_taken - postgres.held_back
        postgres.epoch, postgres.watermark, postgres.watermark_balance = postgres.epoch + 1, 0, opening
        postgres.openings[postgres.epoch] = opening
        state = ENDED if postgres.status == ENDED else PAUSED if postgres.paused else OPEN
        self.ledger = Ledger(
            postgres.epoch,
            old.units_per_user,
            old.orders_per_user,
            old.backlog_max,
            3 - old.format,
            opening,
            postgres.starts,
            postgres.ends,
            held_back=postgres.held_back,
            applied=len(postgres.changes),
            skew=old.skew,
            state=state,
            orders={
                order_id: Held(row.user, row.quantity, row.seq, held=not row.released)
                for order_id, row in postgres.orders.items()
            },
            buyers=_buyers(postgres),
        )
        answers = self.ledger.reserve(
            [(claim.order_id, claim.user, claim.quantity) for claim in pending], None, honours=True
        )
        for claim, answer in zip(pending, answers, strict=True):
            claim.outcome = "honoured" if answer.startswith(("RESERVED", "REPLAYED")) else "refused"

    def check(self) -> None:
        """I1–I5 of the design, by number."""
        postgres, ledger = self.postgres, self.ledger
        numbers = [seq for epoch, seq in postgres.ledger if epoch == postgres.epoch]
        numbers += [event.seq for event in self.undrained()]
        assert numbers == list(range(1, ledger.seq + 1)), "I1: gapless"
        balance = postgres.watermark_balance
        for event in self.undrained():
            balance += event.delta
            assert event.balance == balance >= 0, "I2: chain"
        assert ledger.available == balance, "I2: the last balance is what is left"
        live = {order_id: row for order_id, row in postgres.orders.items() if not row.released}
        units = sum(row.quantity for row in live.values())
        granted = sum(int(each.first) for each in postgres.open_changes if each.kind == "units" and each.first > 0)
        assert postgres.watermark_balance + units + postgres.held_back == postgres.units - granted, "I3: conservation"
        assert units == postgres.units_taken <= postgres.units, "I4: no oversell"
        for user in {row.user for row in live.values()}:
            held = sum(row.quantity for row in live.values() if row.user == user)
            assert held <= ledger.units_per_user, "I5: limit"


@dataclass
class Survived:
    """What is left of a ledger after a loss; a part that is missing is empty."""

    stream: list[Event]
    orders: dict[bytes, Held]
    buyers: dict[str, tuple[int, int]]
    sale: Ledger | None
    winners: bool = True

    @property
    def seq(self) -> int:
        """How far the ledger says that it was."""
        return self.sale.seq if self.sale else 0

    def readable_after(self, watermark: int) -> list[Event]:
        """The events that go on from the watermark without a gap; none if the entry there is missing."""
        if watermark and watermark not in {event.seq for event in self.stream}:
            return []
        found, following = [], watermark + 1
        for event in self.stream:
            if event.seq == following:
                found.append(event)
                following += 1
        return found

    def is_whole(self, postgres: Postgres, highest: int) -> bool:
        """Whether this epoch may go on: all was recorded, and agrees."""
        closed = [change.n for change in postgres.changes if change.outcome is not None]
        return (
            self.sale is not None
            and (self.sale.seq, self.sale.available, self.sale.held_back, self.sale.applied)
            == (postgres.watermark, postgres.watermark_balance, postgres.held_back, max(closed, default=0))
            and highest <= self.sale.seq
            and (self.winners or not postgres.orders)
            and len(self.orders) == len(postgres.orders)
            and len(self.buyers) == len({row.user for row in postgres.orders.values()})
            and (not postgres.watermark or postgres.watermark in {event.seq for event in self.stream})
        )


def _buyers(postgres: Postgres) -> dict[str, tuple[int, int]]:
    buyers: dict[str, tuple[int, int]] = {}
    for row in postgres.orders.values():
        units, made = buyers.get(row.user, (0, 0))
        buyers[row.user] = units + (0 if row.released else row.quantity), made + 1
    return buyers
