"""What admins did as JSON, and what may be asked of it."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shop.bounds import WrittenId
from shop.paging import ListQuery

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]


class AdminEventQuery(ListQuery):
    """Which events to list."""

    starting_after: WrittenId | None = Field(None, description="The last id of the page before.")
    action: Word | None = Field(None, description="What was done, such as user.blocked.")
    actor_id: Word | None = Field(None, description="Who did it: an account, or cli, or controller.")
    subject: Word | None = Field(None, description="The kind of thing that it was done to, such as sale.")
    subject_id: Word | None = Field(None, description="Which one; with its subject.")

    @model_validator(mode="after")
    def _has_subject(self) -> Self:
        if self.subject_id is not None and self.subject is None:
            raise ValueError("subject_id needs a subject")
        return self


class AdminEventRead(BaseModel):
    """What an admin did, from where, and in which request."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["admin_event"] = "admin_event"
    id: int
    action: str
    actor_id: str
    address: str
    request_id: str
    subject: str
    subject_id: str
    details: dict[str, Any]
    created_at: datetime


class AdminEventPage(BaseModel):
    """One page of what admins did, the newest first."""

    object: Literal["list"] = "list"
    data: list[AdminEventRead]
    has_more: bool
