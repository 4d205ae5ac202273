"""The rows of keys that were used, with what was answered."""

from sqlalchemy import CheckConstraint, Index, LargeBinary, SmallInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from shop.database import Base, Recorded


class IdempotencyKey(Recorded, Base):
    """A request that was carried out, in the transaction of its effect: both are there, or neither is.

    `user_id` has no foreign key: the command line uses keys as well. `status` and `body` are missing only inside the
    transaction that makes the row.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
        CheckConstraint("(status IS NULL) = (body IS NULL)", name="answered"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )

    user_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int | None] = mapped_column(SmallInteger)
    body: Mapped[str | None] = mapped_column(Text)
