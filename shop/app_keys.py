"""What routers ask of their application: each piece has a typed key, in the package that knows its type.

`shop.app.state` puts the pieces under their keys. A key is read where the piece is used, not declared as a dependency:
each of those costs a request as much as a fifth of an empty FastAPI route.
"""

from typing import Generic, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request

from shop.settings import Settings

Piece = TypeVar("Piece")


class AppKey(Generic[Piece]):
    """The key of one piece; no two have the same name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def put(self, app: Starlette, piece: Piece) -> None:
        """Let the routes of this application have the piece."""
        app.state[self._name] = piece

    def of(self, request: Request) -> Piece:
        """The piece of the application that answers this request."""
        piece: Piece = request.app.state[self._name]
        return piece


SETTINGS = AppKey[Settings]("settings")
