"""The rows of accounts."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from shop.database import Base, Recorded, Xid8


class Role(StrEnum):
    SHOPPER = "shopper"
    ADMIN = "admin"


class User(Recorded, Base):
    """An account. Orders name it without a foreign key: nothing a client sends may make a batch of orders fail."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("role IN ('shopper', 'admin')", name="role"),
        CheckConstraint("email = lower(email)", name="email_lower"),
        CheckConstraint("id ~ '^[A-Za-z0-9_-]{1,64}$'", name="id"),
        Index("ix_users_blocked_at", "blocked_at", postgresql_where="blocked_at IS NOT NULL"),
        # For the list of all accounts, `shop.users.listing`.
        Index("ix_users_free", "role", "created_at", "id", postgresql_where="blocked_at IS NULL"),
        Index("ix_users_blocked", "role", "created_at", "id", postgresql_where="blocked_at IS NOT NULL"),
        Index("ix_users_address", "email"),  # COLLATE "C", says its migration: alembic compares no collations.
        Index("ix_users_token_generation", "token_generation", postgresql_where="token_generation > 0"),
        Index("ix_users_tokens_ended_tx", "tokens_ended_tx", postgresql_where="tokens_ended_tx IS NOT NULL"),
        Index("ix_users_tx", "tx", "id", postgresql_where="tx IS NOT NULL"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str] = mapped_column(String(200))
    role: Mapped[Role] = mapped_column(String(16), default=Role.SHOPPER)
    blocked_at: Mapped[datetime | None]
    token_generation: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Only tokens of this generation are good: the millisecond at which it began, later than the one before."""
    tokens_ended_tx: Mapped[int | None] = mapped_column(Xid8)
    """Who began the generation, see `shop.database.Xid8`."""
    tx: Mapped[int | None] = mapped_column(Xid8)
    """Who registered has it, see `shop.database.Xid8`; accounts of load tests have none, and are not welcomed."""
