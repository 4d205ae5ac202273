"""Who changed what, when and from where: written in the same transaction as the change itself."""

from typing import Any

from sqlalchemy import BigInteger, Identity, Index, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from shop.auth import Actor
from shop.database import Base, Recorded


class AdminEvent(Recorded, Base):
    """One change by an admin."""

    __tablename__ = "admin_events"
    __table_args__ = (
        Index("ix_admin_events_newest", "created_at", "id"),
        Index("ix_admin_events_action", "action", "created_at", "id"),
        Index("ix_admin_events_actor", "actor_id", "created_at", "id"),
        Index("ix_admin_events_actor_action", "actor_id", "action", "created_at", "id"),
        Index("ix_admin_events_kind", "subject", "created_at", "id"),
        Index("ix_admin_events_subject_newest", "subject", "subject_id", "created_at", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    actor_id: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[str] = mapped_column(String(64))
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)


def record_admin_event(
    session: AsyncSession, actor: Actor, *, action: str, subject: str, subject_id: str | int, **details: Any
) -> None:
    """Add the event to the transaction; `details` are JSON-ready values."""
    session.add(
        AdminEvent(
            actor_id=actor.id,
            address=actor.address,
            request_id=actor.request_id,
            action=action,
            subject=subject,
            subject_id=str(subject_id),
            details=details,
        )
    )
