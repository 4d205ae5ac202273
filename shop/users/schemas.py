"""The JSON of accounts."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, SecretStr

from shop.bounds import Text
from shop.users.models import Role

PASSWORD_LENGTH_MIN = 10
# Long enough for any passphrase, short enough that hashing its characters costs nothing.
PASSWORD_LENGTH_MAX = 128
EMAIL_LENGTH_MAX = 254

Username = Annotated[str, Text(EMAIL_LENGTH_MAX)]


def _is_text(password: SecretStr) -> SecretStr:
    """JSON can spell half of a surrogate pair, which is no character."""
    try:
        password.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("this is not text") from None  # the cause would quote the password
    return password


class Registration(BaseModel):
    """A new account. The password is never echoed, not even when it is refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    email: EmailStr = Field(max_length=EMAIL_LENGTH_MAX, examples=["ada@example.com"])
    password: Annotated[SecretStr, AfterValidator(_is_text)] = Field(
        min_length=PASSWORD_LENGTH_MIN, max_length=PASSWORD_LENGTH_MAX, examples=["correct horse battery"]
    )


class Credentials(BaseModel):
    """The password form of OAuth2 (RFC 6749, section 4.3); `username` is the e-mail address."""

    model_config = ConfigDict(hide_input_in_errors=True)

    grant_type: Literal["password"] = "password"
    username: Username
    password: SecretStr = Field(min_length=1, max_length=PASSWORD_LENGTH_MAX)


class Token(BaseModel):
    """A bearer token and the seconds it is good for."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - a word of the protocol
    expires_in: int


class UserRead(BaseModel):
    """An account, as its owner sees it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    email: str
    role: Role
    created_at: datetime
