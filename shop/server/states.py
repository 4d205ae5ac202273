"""The states of a connection, and how they follow one another."""

from enum import IntEnum


class State(IntEnum):
    """What the next byte of a connection means. In every state answers may be due: those of its `exchanges`.

    ==========  ==========  ============================================================================
    from        to          when
    ==========  ==========  ============================================================================
    IDLE        HEAD        a request begins
    IDLE        DRAINING    what follows cannot be read: it asked for another protocol, or to close
    IDLE        CLOSED      idle for too long, the last answer was given, or the client is gone
    HEAD        BODY        the head is complete
    HEAD        DISCARDING  it was refused by the admission; its body is of no use
    HEAD        DRAINING    it cannot be read, or comes too slowly, and others before it are unanswered
    HEAD        LINGERING   the same, and it was told so; or it was refused, and asked to close
    HEAD        CLOSED      the answer before it was the last one, or the client is gone
    BODY        IDLE        the request is complete
    BODY        DRAINING    the body cannot be read, or comes too slowly, and others are unanswered
    BODY        LINGERING   the same, and it was told so
    BODY        CLOSED      the same when the application runs already; or the client is gone
    DISCARDING  IDLE        the request is complete
    DISCARDING  CLOSED      the body cannot be read, or comes too slowly; or the client is gone
    DRAINING    CLOSED      the last answer was given, or the client is gone
    LINGERING   CLOSED      the client has had its moment to read the last answer
    ==========  ==========  ============================================================================

    From DRAINING on nothing is read.
    """

    IDLE = 0
    HEAD = 1
    BODY = 2
    DISCARDING = 3
    DRAINING = 4
    LINGERING = 5
    CLOSED = 6


# They are looked up several times for each request.
IDLE, HEAD, BODY, DISCARDING, DRAINING, LINGERING, CLOSED = State
