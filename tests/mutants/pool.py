"""Breaks of the pool of connections to Postgres: which is lent, to whom, and who may wait for one."""

from tests.mutants.mutant import breaks

POOL, LINE, ENGINE = "shop/connection_pool.py", "shop/waiting_line.py", "shop/database_engine.py"
OF_DEAD, OF_GATE = "tests/faults/test_dead_connections.py", "tests/server/test_connection_pool.py"

MUTANTS = (
    breaks(
        "dead_connection_is_lent",
        "A request fails on a connection of which the process knows that the server has ended it.",
        POOL,
        "        if connection.driver_connection.is_closed():\n            raise DisconnectionError\n",
        "",
        f"{OF_DEAD}::test_no_request_fails_on_connections_that_the_server_has_ended",
    ),
    breaks(
        "ping_for_each_request",
        "Each request pays for a question that costs as much as its statement.",
        POOL,
        "        if time.monotonic() - idle_since <= idle_seconds:\n            return\n",
        "",
        f"{OF_DEAD}::test_a_connection_that_is_busy_is_never_pinged_and_one_that_was_idle_is",
    ),
    breaks(
        "half_open_one_by_one",
        "Of half-open connections each is found by a statement of its own, which waits for seconds.",
        ENGINE,
        "context.is_disconnect = context.invalidate_pool_on_disconnect = True",
        "context.is_disconnect = True",
        f"{OF_DEAD}::test_one_statement_is_lost_on_half_open_connections_that_were_just_used",
    ),
    breaks(
        "wait_after_wait",
        "Who has waited in the line waits as long again for a new connection of a Postgres that hangs.",
        POOL,
        "    return max(0.0, min(seconds, DEADLINE.get() - time.monotonic()))\n",
        "    return seconds\n",
        f"{OF_DEAD}::test_nobody_waits_longer_for_a_connection_than_they_may_while_postgres_hangs",
    ),
    breaks(
        "newcomers_before_those_who_wait",
        "Whoever came last gets the next connection; who came first waits in vain.",
        LINE,
        "            place = self._line.popleft()\n",
        "            place = self._line.pop()\n",
        f"{OF_GATE}::test_connections_are_lent_in_the_order_of_asking",
    ),
    breaks(
        "line_without_end",
        "Any number of requests waits for a connection, and each for as long as it may.",
        LINE,
        "        if len(self._line) >= self.waiting_max:\n",
        "        if False:\n",
        f"{OF_GATE}::test_who_finds_the_line_full_is_refused_at_once",
    ),
    breaks(
        "place_is_lost_with_an_attempt",
        "Each attempt to connect that fails makes the pool smaller, until nobody is served any more.",
        POOL,
        "        except BaseException:\n            self.gate.leave()\n            raise\n",
        "        except BaseException:\n            raise\n",
        f"{OF_GATE}::test_who_cannot_connect_lets_the_next_one_try",
    ),
)
