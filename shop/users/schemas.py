"""The JSON of accounts."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, SecretStr

from shop.bounds import Text
from shop.users.models import Role
from shop.users.passwords import normal_form

PASSWORD_LENGTH_MIN = 10
# Long enough for any passphrase, short enough that hashing its characters costs nothing.
PASSWORD_LENGTH_MAX = 128
# As it is typed: some keyboards send a letter and its accents one by one.
TYPED_LENGTH_MAX = 4 * PASSWORD_LENGTH_MAX
EMAIL_LENGTH_MAX = 254

Username = Annotated[str, Text(EMAIL_LENGTH_MAX)]


def _is_text(password: SecretStr) -> SecretStr:
    """JSON can spell half of a surrogate pair, which is no character."""
    try:
        password.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("this is not text") from None  # the cause would quote the password
    return password


def _may_be_new(password: SecretStr) -> SecretStr:
    """The one form of the password. Its length is the one that a person sees."""
    normal = normal_form(password.get_secret_value())
    if not PASSWORD_LENGTH_MIN <= len(normal) <= PASSWORD_LENGTH_MAX:
        raise ValueError(f"a password has {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters")
    return SecretStr(normal)


TypedPassword = Annotated[SecretStr, Field(min_length=1, max_length=TYPED_LENGTH_MAX), AfterValidator(_is_text)]
NewPassword = Annotated[
    SecretStr,
    Field(
        max_length=TYPED_LENGTH_MAX,
        examples=["correct horse battery"],
        json_schema_extra={
            "minLength": PASSWORD_LENGTH_MIN,
            "maxLength": PASSWORD_LENGTH_MAX,
            "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
        },
    ),
    AfterValidator(_may_be_new),
]


class Registration(BaseModel):
    """A new account. The password is never echoed, not even when it is refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    email: EmailStr = Field(max_length=EMAIL_LENGTH_MAX, examples=["ada@example.com"])
    password: NewPassword


class PasswordReset(BaseModel):
    """Another password for an account."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    new_password: NewPassword


class PasswordChange(PasswordReset):
    """Another password for one's own account."""

    current_password: TypedPassword


class RoleChange(BaseModel):
    """What an account may do from now on."""

    model_config = ConfigDict(extra="forbid")

    role: Role


class Credentials(BaseModel):
    """The password form of OAuth2 (RFC 6749, section 4.3); `username` is the e-mail address."""

    model_config = ConfigDict(hide_input_in_errors=True)

    grant_type: Literal["password"] = "password"
    username: Username
    password: TypedPassword


class Token(BaseModel):
    """A bearer token and the seconds it is good for."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - a word of the protocol
    expires_in: int


class UserRead(BaseModel):
    """An account, as its owner sees it."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["user"] = "user"
    id: str
    email: str
    role: Role
    created_at: datetime


class UserAdminRead(UserRead):
    """An account, as an admin sees it. `blocked_at` is since when it may do nothing."""

    blocked_at: datetime | None
