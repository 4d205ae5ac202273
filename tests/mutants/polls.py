"""Breaks of the polls of orders: what they may show, to whom, and how often they come."""

from tests.mutants.mutant import breaks

RECORDED, READING = "shop/order_states/recorded.py", "shop/order_states/reading.py"
OF_STATES, OF_READER = "tests/orders/waiting/test_states.py", "tests/orders/waiting/test_state_reader.py"

MUTANTS = (
    breaks(
        "poll_from_memory_alone",
        "A poll shows the state that this process has in memory, whatever another has acknowledged since.",
        "shop/order_states/memory.py",
        "        return drawn if drawn is not None and drawn.version == version else None\n",
        "        return drawn\n",
        f"{OF_STATES}::test_what_one_process_acknowledged_another_never_tells_the_state_before",
    ),
    breaks(
        "poll_of_anybody",
        "Whoever knows the id of an order may read it.",
        "shop/order_states/polling.py",
        "    if drawn.user_id != poll.user_id:\n        return None\n",
        "",
        OF_READER,
    ),
    breaks(
        "poll_of_anybody_in_the_ledger",
        "Whoever knows the id of an order may read it while it has no row.",
        "shop/order_states/unrecorded.py",
        "        if found.order.user_id != poll.user_id:\n            return None\n",
        "        poll = poll._replace(user_id=order.user_id)\n",
        f"{OF_STATES}::test_an_order_on_its_way_is_what_the_route_says",
    ),
    breaks(
        "poll_looks_once",
        "An order that is recorded while the ledger is asked, and whose ledger is then dropped, is not found.",
        READING,
        "            again = await self._recorded.read([polls[place] for place in absent])\n",
        "            again: list[Found] = [None for _ in absent]\n",
        f"{OF_READER}::test_what_is_recorded_between_the_two_looks_is_found",
    ),
    breaks(
        "poll_of_one_fails_all",
        "An order that cannot be read fails the polls of its whole batch.",
        RECORDED,
        "            if len(polls) == 1:\n                return [_failed(error)]\n",
        "            return [_failed(error)] * len(polls)\n",
        "tests/faults/isolation/test_order_states.py",
    ),
    breaks(
        "polls_wait_for_a_hanging_postgres",
        "Whoever polls while Postgres hangs waits for as long as a statement may take.",
        READING,
        "        await asyncio.wait({reading}, timeout=left)\n",
        "        await asyncio.wait({reading})\n",
        "tests/faults/test_order_states.py",
    ),
    breaks(
        "polls_cost_nothing",
        "The time between two polls does not follow what they cost.",
        "shop/seckill/polls.py",
        "        self._cost_seconds += (cost_seconds - self._cost_seconds) * min(polls / AVERAGED_POLLS, 1.0)\n",
        "",
        "tests/orders/waiting/test_polling.py::test_what_polls_cost_is_measured_and_one_dear_batch_does_not_say_it",
    ),
)
