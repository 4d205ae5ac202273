"""The books of the sandbox in SQLite. With a file, what was answered survives the process, however it ends.

Its calls take microseconds and are made in the event loop: one writer, and one transaction after the other.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from shop.sandbox.records import Delivery, Event, Intent, Refund, Status

BUSY_SECONDS_MAX = 2.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS intents (
    id TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, order_id TEXT NOT NULL, amount_minor INTEGER NOT NULL,
    currency TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'open', attempts INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS returns (intent_id TEXT PRIMARY KEY REFERENCES intents, url TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refunds (
    id TEXT PRIMARY KEY, intent_id TEXT NOT NULL REFERENCES intents, key TEXT NOT NULL, amount_minor INTEGER NOT NULL,
    UNIQUE (intent_id, key)
);
-- Nothing is ever deleted, so the numbers have no gap. The webhook is waiting, delivered, lost, off or abandoned.
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, intent_id TEXT NOT NULL REFERENCES intents,
    created_at TEXT NOT NULL, data TEXT NOT NULL,
    webhook TEXT NOT NULL, copies INTEGER NOT NULL, sent INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL, held INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS events_waiting ON events (due_ms) WHERE webhook = 'waiting';
CREATE INDEX IF NOT EXISTS events_held ON events (intent_id) WHERE webhook = 'waiting' AND held = 1;
"""
EVENT = "id, seq, type, created_at, data"


class Books:
    """The open books. Raises sqlite3.OperationalError when another process has them open."""

    def __init__(self, file: Path | None, *, public_url: str) -> None:
        self.public_url = public_url
        self._connection = sqlite3.connect(file or ":memory:", timeout=BUSY_SECONDS_MAX, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        # NORMAL loses nothing when the process is killed, only when the machine is.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        """Close them; nothing is lost without it."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within it, or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def add_intent(
        self, *, intent_id: str, key: str, order_id: str, amount_minor: int, currency: str, created_at: str
    ) -> None:
        self._connection.execute(
            "INSERT INTO intents (id, key, order_id, amount_minor, currency, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (intent_id, key, order_id, amount_minor, currency, created_at),
        )

    def add_return(self, intent_id: str, url: str) -> None:
        """Record where the shopper goes from the page of this intent."""
        self._connection.execute("INSERT INTO returns (intent_id, url) VALUES (?, ?)", (intent_id, url))

    def return_url(self, intent_id: str) -> str | None:
        """Where the shopper goes from the page of this intent, if the shop has said so."""
        found = self._rows("SELECT url FROM returns WHERE intent_id = ?", intent_id)
        return found[0]["url"] if found else None

    def find(self, intent_id: str) -> Intent | None:
        """The intent of this id."""
        return self._intent("SELECT * FROM intents WHERE id = ?", intent_id)

    def find_by_key(self, key: str) -> Intent | None:
        """The intent that was made with this key."""
        return self._intent("SELECT * FROM intents WHERE key = ?", key)

    def move(self, intent_id: str, *, status: Status, attempts: int) -> None:
        self._connection.execute(
            "UPDATE intents SET status = ?, attempts = ? WHERE id = ?", (status, attempts, intent_id)
        )

    def add_refund(self, intent_id: str, refund: Refund) -> None:
        self._connection.execute(
            "INSERT INTO refunds (id, intent_id, key, amount_minor) VALUES (?, ?, ?, ?)",
            (refund.id, intent_id, refund.key, refund.amount_minor),
        )

    def add_event(
        self,
        *,
        event_id: str,
        kind: str,
        intent: Intent,
        created_at: str,
        webhook: str,
        copies: int,
        due_ms: int,
        held: bool,
    ) -> None:
        """Record what happened, and what becomes of its webhook."""
        self._connection.execute(
            "INSERT INTO events (id, type, intent_id, created_at, data, webhook, copies, due_ms, held)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (event_id, kind, intent.id, created_at, _json(intent), webhook, copies, due_ms, held),
        )

    def events_after(self, seq: int, limit: int) -> list[Event]:
        """The events that came after this number, in order."""
        rows = self._rows(f"SELECT {EVENT} FROM events WHERE seq > ? ORDER BY seq LIMIT ?", seq, limit)  # noqa: S608
        return [_event(row) for row in rows]

    def due(self, now_ms: int, limit: int) -> list[Delivery]:
        """The webhooks to send now, those that wait longest first."""
        query = (
            f"SELECT {EVENT}, intent_id, tries FROM events WHERE webhook = 'waiting' AND due_ms <= ?"  # noqa: S608
            " ORDER BY due_ms, seq LIMIT ?"
        )
        return [Delivery(_event(row), row["intent_id"], row["tries"]) for row in self._rows(query, now_ms, limit)]

    def next_due_ms(self, now_ms: int) -> int | None:
        """When the next webhook is due that is not due yet."""
        query = "SELECT min(due_ms) AS due_ms FROM events WHERE webhook = 'waiting' AND due_ms > ?"
        found: int | None = self._rows(query, now_ms)[0]["due_ms"]
        return found

    def holds_back(self, intent_id: str) -> bool:
        """Whether an event of this intent is held back."""
        return bool(
            self._rows("SELECT 1 FROM events WHERE webhook = 'waiting' AND held = 1 AND intent_id = ?", intent_id)
        )

    def mark_sent(self, delivery: Delivery, *, now_ms: int) -> None:
        """A copy was taken; who was held back for it is due."""
        seq = delivery.event.seq
        self._connection.execute(
            "UPDATE events SET sent = sent + 1, copies = copies - 1, tries = 0, held = 0, due_ms = ?,"
            " webhook = CASE WHEN copies > 1 THEN 'waiting' ELSE 'delivered' END WHERE seq = ?",
            (now_ms, seq),
        )
        self._connection.execute(
            "UPDATE events SET held = 0, due_ms = ?"
            " WHERE webhook = 'waiting' AND held = 1 AND intent_id = ? AND seq < ?",
            (now_ms, delivery.intent_id, seq),
        )

    def mark_failed(self, delivery: Delivery, *, due_ms: int | None) -> None:
        """A copy was not taken; it is sent again, or given up without a time."""
        self._connection.execute(
            "UPDATE events SET tries = tries + 1, due_ms = coalesce(?, due_ms),"
            " webhook = CASE WHEN ? IS NULL THEN 'abandoned' ELSE webhook END WHERE seq = ?",
            (due_ms, due_ms, delivery.event.seq),
        )

    def summary(self) -> dict[str, Any]:
        """Counts, and sums in minor units whatever the currency: the demo has one."""
        intents = {"open": 0, "captured": 0, "cancelled": 0}
        intents.update({row["status"]: row["n"] for row in self._rows(f"{COUNT_INTENTS} GROUP BY status")})
        (captured,) = self._rows(f"{COUNT_INTENTS} WHERE status = 'captured'")
        (refunds,) = self._rows("SELECT count(*) AS n, coalesce(sum(amount_minor), 0) AS minor FROM refunds")
        (events,) = self._rows(COUNT_WEBHOOKS)
        return {
            "intents": intents,
            "captured_minor": captured["minor"],
            "refunded_minor": refunds["minor"],
            "refunds": refunds["n"],
            "events": events["n"],
            "webhooks": {name: events[name] for name in ("sent", "lost", "duplicated", "waiting", "abandoned")},
        }

    def _intent(self, query: str, *values: object) -> Intent | None:
        rows = self._rows(query, *values)
        if not rows:
            return None
        (row,) = rows
        found = self._rows("SELECT * FROM refunds WHERE intent_id = ? ORDER BY rowid", row["id"])
        refunds = [Refund(each["id"], each["key"], each["amount_minor"]) for each in found]
        return Intent(
            id=row["id"],
            order_id=row["order_id"],
            amount_minor=row["amount_minor"],
            currency=row["currency"],
            status=row["status"],
            captured_minor=row["amount_minor"] if row["status"] == "captured" else 0,
            refunded_minor=sum(refund.amount_minor for refund in refunds),
            refunds=refunds,
            attempts=row["attempts"],
            pay_url=f"{self.public_url}/pay/{row['id']}",
            created_at=row["created_at"],
            decline_code="card_declined" if row["attempts"] and row["status"] == "open" else None,
        )

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        return self._connection.execute(query, values).fetchall()


COUNT_INTENTS = "SELECT status, count(*) AS n, coalesce(sum(amount_minor), 0) AS minor FROM intents"
COUNT_WEBHOOKS = """
SELECT count(*) AS n, coalesce(sum(sent), 0) AS sent, coalesce(sum(max(sent - 1, 0)), 0) AS duplicated,
       count(*) FILTER (WHERE webhook = 'lost') AS lost, count(*) FILTER (WHERE webhook = 'waiting') AS waiting,
       count(*) FILTER (WHERE webhook = 'abandoned') AS abandoned
FROM events
"""


def _event(row: sqlite3.Row) -> Event:
    return Event(row["id"], row["seq"], row["type"], row["created_at"], msgspec.Raw(row["data"].encode()))


def _json(intent: Intent) -> str:
    return msgspec.json.encode(intent).decode()
