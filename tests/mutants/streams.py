"""Breaks of the event streams that a crowd opens at once."""

from tests.mutants.mutant import breaks

READER, STREAM = "shop/orders/order_reader.py", "shop/orders/order_stream.py"
CROWDS = "tests/orders/waiting/test_crowds_of_streams.py"

MUTANTS = (
    breaks(
        "each_stream_reads_alone",
        "Of a crowd that opens streams at once, each has a transaction of its own.",
        READER,
        "ORDERS_PER_READ_MAX = 64\n",
        "ORDERS_PER_READ_MAX = 1\n",
        f"{CROWDS}::test_a_thousand_streams_at_once_are_all_opened_and_read_together",
    ),
    breaks(
        "hanging_postgres_one_by_one",
        "Those who wait for a Postgres that hangs are told so one read after another, each as long as it may take.",
        READER,
        "        late = [each.order_id for each in asked if each.at > self._failed_at]\n",
        "        late, self._failed_at = [each.order_id for each in asked], 0.0\n",
        f"{CROWDS}::test_all_who_wait_for_a_postgres_that_hangs_are_told_at_once",
    ),
    breaks(
        "stream_waits_for_its_read_for_ever",
        "A stream that is not opened in time is not refused.",
        STREAM,
        "        waiting = asyncio.timeout(self._streams.settings.sse_open_seconds_max)\n",
        "        waiting = asyncio.timeout(None)\n",
        f"{CROWDS}::test_a_stream_that_is_not_read_in_time_is_refused",
    ),
    breaks(
        "stream_of_anybody",
        "Whoever knows the id of an order follows it.",
        STREAM,
        "        if state is None or state.user_id != self._buyer.user_id:\n",
        "        if state is None:\n",
        "tests/orders/waiting/test_events.py::test_a_stream_of_somebody_elses_order_is_not_found_recorded_or_not",
    ),
    breaks(
        "deadline_is_early",
        "Who waits for a time is woken before it.",
        "shop/timer_wheel.py",
        "        slot = int((loop.time() + seconds) / self._tick_seconds) + 1\n",
        "        slot = int((loop.time() + seconds) / self._tick_seconds) - 1\n",
        "tests/orders/waiting/test_timer_wheel.py",
    ),
)
