"""All accounts as JSON, and what may be asked of them."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from shop.bounds import Text
from shop.paging import ListQuery
from shop.users.models import Role
from shop.users.schemas import EMAIL_LENGTH_MAX, UserAdminRead
from shop.users.service import canonical_email, small_letters

Email = Annotated[str, Text(EMAIL_LENGTH_MAX), AfterValidator(canonical_email)]
EmailPrefix = Annotated[str, Text(EMAIL_LENGTH_MAX), AfterValidator(small_letters)]


class UserQuery(ListQuery):
    """Which accounts to list."""

    starting_after: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(
        None, description="The last id of the page before."
    )
    role: Role | None = None
    blocked: bool | None = None
    email: Email | None = Field(None, description="Only the account with this address.")
    email_prefix: EmailPrefix | None = Field(
        None, description="Only addresses that begin so. The list is in the order of the addresses then."
    )

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.email is not None and self.email_prefix is not None:
            raise ValueError("an address is either whole or a beginning")
        return self


class UserAdminPage(BaseModel):
    """One page of all accounts, the newest first."""

    object: Literal["list"] = "list"
    data: list[UserAdminRead]
    has_more: bool
