"""One poll of an order, and what it is told."""

from typing import NamedTuple

from shop.http_headers import matches
from shop.order_states.drawing import Drawn


class Poll(NamedTuple):
    """Who asks for which order, as it is written in small letters, since when, and the entity tags that they know."""

    order_id: str
    user_id: str
    known: str | None
    asked_at: float

    def knows(self, tag: str) -> bool:
        """Whether this is a tag that they know, by the weak comparison of RFC 9110."""
        return self.known is not None and (self.known == tag or matches(self.known, tag))


class State(NamedTuple):
    """What a poll is told; without a body because it knows that."""

    tag: str
    body: bytes | None


# Without a row the order is not recorded, as far as that was asked.
Found = State | Exception | None


def told(poll: Poll, drawn: Drawn | Exception | None) -> Found:
    """What this poll is told of its order as it was drawn.

    Another buyer's is to them as if it were not there: it is looked for in the same places, which takes as long.
    """
    if drawn is None or isinstance(drawn, Exception):
        return drawn
    if drawn.user_id != poll.user_id:
        return None
    return State(drawn.tag, None if poll.knows(drawn.tag) else drawn.body)
