"""How a body is read, the same on every route: JSON in UTF-8 and nothing else, by one decoder."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import Request, Response
from fastapi.params import Form
from fastapi.routing import APIRoute

from shop.errors import BadRequest, UnsupportedMediaType

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
# In the scope of a request: why its body could not be read.
UNREADABLE = "shop.unreadable"


def read_json(body: bytes) -> Any:
    """The value that a body holds. Raises BadRequest."""
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest("A number in the body is larger than any that is read") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("The body is not JSON" if body else "The body is empty") from error


class JsonRoute(APIRoute):
    """A route that reads its body as the purchase lane does: another media type is 415, what is not JSON is 400.

    A body without a Content-Type is taken as JSON. Who asks is looked at before what they ask.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"strict_content_type": False})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        if self.body_field is None:
            return answer
        wanted = FORM if isinstance(self.body_field.field_info, Form) else JSON

        async def read_and_answer(request: Request) -> Response:
            sent = ",".join(request.headers.getlist("content-type") or [wanted]).partition(";")[0].strip().lower()
            if sent != wanted:
                raise UnsupportedMediaType(f"The body must be {wanted}")
            return await answer(_JsonRequest(request.scope, request.receive))

        return read_and_answer


class _JsonRequest(Request):
    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except BadRequest as error:
            self.scope[UNREADABLE] = error
            return b""  # Which no model takes, so the request is refused once its token has been looked at.
