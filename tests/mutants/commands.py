"""Breaks of what an operator relies on at the command line."""

from tests.mutants.mutant import Mutant, breaks

OF_UP = "tests/commands/test_up.py"

MUTANTS: tuple[Mutant, ...] = (
    breaks(
        "ports_shared_with_another_shop",
        "Two shops listen at one port, and the kernel mixes their buyers.",
        "shop/listening_sockets.py",
        "    first = _bound(family, address)\n",
        "    first = _bound(family, address, socket.SO_REUSEPORT)\n",
        f"{OF_UP}::test_two_shops_never_share_a_port",
    ),
    breaks(
        "short_secret_kept",
        "A secret that a crash has cut short signs tokens that anybody can make.",
        "shop/local/starting.py",
        "    if len(found) >= SECRET_BYTES_MIN and ",
        "    if file.exists() and ",
        f"{OF_UP}::test_what_is_no_secret_is_replaced_and_said",
    ),
    breaks(
        "retry_that_finds_another_order",
        "The demo takes any answer to a retry for the order that was promised.",
        "loadtests/judge/retries.py",
        "            return (read.code, read.order_id) == (REPLAYED, order_id)\n",
        "            return read.order_id is not None\n",
        "tests/loadtests/test_retries.py::test_a_retry_that_gets_another_order_a_new_one_or_none_does_not_hold",
    ),
    breaks(
        "page_begins_at_its_cursor",
        "A list shows the last row of a page again on the next one.",
        "shop/paging.py",
        "        query = query.where(tuple_(at, key) < tuple_(",
        "        query = query.where(tuple_(at, key) <= tuple_(",
        "tests/api/listing/test_pages.py::test_the_pages_of_a_list_are_all_that_is_asked_for_the_newest_first",
    ),
    breaks(
        "broken_metrics_file_read",
        "An empty file of a process that was killed takes the whole page away.",
        "shop/metrics_page.py",
        "            elif (reason := _unreadable(file)) is None:\n",
        "            elif (reason := _unreadable(file) if file.stat().st_size else None) is None:\n",
        "tests/server/processes/test_metrics.py::test_a_file_that_cannot_be_read_costs_the_page_nothing_but_what_that_process_counted",
    ),
    breaks(
        "details_in_words_only",
        "Who runs the shop is not told what was seen.",
        "shop/readiness.py",
        "summary(asyncio.run(check()), Failing._asdict)",
        "summary(asyncio.run(look()), lambda failing: failing.reason)",
        "tests/api/test_operator.py::test_the_metrics_port_tells_the_details_that_the_public_is_not_told",
    ),
    breaks(
        "help_imports_the_shop",
        "Every help, version and completion of a shell waits for the whole shop.",
        "shop/cli/__init__.py",
        "from shop.cli.commands import Commands\n",
        "from shop.cli import failures as _failures\nfrom shop.cli.commands import Commands\n",
        "tests/commands/test_quick.py::test_what_only_says_what_there_is_imports_nothing_of_what_runs",
    ),
    breaks(
        "line_of_another_command",
        "The help says of a command what it does not do.",
        "shop/cli/commands.py",
        '("shop.cli.servers", "Record orders, follow the sales, expire holds.")',
        '("shop.cli.servers", "Record orders.")',
        "tests/commands/test_quick.py::test_a_commands_line_is_the_beginning_of_its_own_help",
    ),
    breaks(
        "successor_begins_from_nothing",
        "A process that follows a killed one does again what could have been done before.",
        "shop/app/preloading.py",
        "    authorities()\n    dummy_hash()\n",
        "    del authorities, dummy_hash\n",
        "tests/server/processes/test_imports.py::test_what_all_processes_have_in_common_is_made_before_they_are_forked",
    ),
    breaks(
        "late_heal_passes",
        "A shop that heals in a minute passes for one that heals in 15 s.",
        "loadtests/torture/run.py",
        "    if not_healed or seconds > allowed:\n",
        "    if not_healed:\n",
        "tests/invariants/test_torture.py::test_a_round_that_heals_too_late_is_a_violation_and_the_run_goes_on",
    ),
)
