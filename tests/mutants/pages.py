"""Breaks of the public pages, of the gates before the others, and of what an idle worker no longer asks for."""

from tests.mutants.mutant import breaks

MEMORY, PAGE = "shop/public_pages/memory.py", "shop/public_pages/page.py"
OF_PAGES = "tests/selling/test_public_pages.py"
OF_CROWDS = "tests/selling/test_crowds_of_readers.py"

MUTANTS = (
    breaks(
        "page_is_old_for_ever",
        "A page that was read once is shown as it was, whatever has changed.",
        MEMORY,
        "REFRESH_SECONDS = 0.1\n",
        "REFRESH_SECONDS = 60.0\n",
        f"{OF_PAGES}::test_a_change_is_seen_in_every_process",
    ),
    breaks(
        "read_of_before_is_kept",
        "A read that was under way when the page was forgotten shows what was before the change.",
        MEMORY,
        "            if self._is_current(key):\n                self._keep(key, page)\n",
        "            self._keep(key, page)\n",
        f"{OF_PAGES}::test_what_is_forgotten_while_it_is_read_is_read_again",
    ),
    breaks(
        "made_up_pages_are_kept",
        "A client fills the memory with ids that it makes up, and pages that are asked for leave it.",
        MEMORY,
        "        while self._bytes > self._bytes_max:\n            self._drop(next(iter(self._pages)))\n",
        "",
        f"{OF_PAGES}::test_what_is_not_there_and_pages_beyond_the_bound_are_not_kept",
    ),
    breaks(
        "any_number_waits_for_a_page",
        "Whoever asks for pages that are being read waits for them, however many there are.",
        MEMORY,
        "return self._waiters >= self._waiters_max or reading.waiters >= self._waiters_max * ONE_PAGES_SHARE",
        "return False",
        f"{OF_PAGES}::test_only_so_many_wait_for_a_page_and_the_others_are_told_so",
    ),
    breaks(
        "made_up_ids_are_asked_for_at_once",
        "Whoever makes ids up makes as many statements as Postgres can answer.",
        "shop/batching.py",
        "            if self._pause_seconds:\n                await self._pause()\n",
        "",
        f"{OF_CROWDS}::test_a_flood_of_made_up_ids_costs_a_few_statements_and_a_cold_product_does_not_wait_behind_it",
    ),
    breaks(
        "each_process_loads_for_itself",
        "A cold product is loaded by each process that is asked for it.",
        "shop/cache_store.py",
        "        return bool(locked)\n",
        "        return True\n",
        f"{OF_CROWDS}::test_each_of_many_cold_products_is_loaded_once_for_all_processes",
    ),
    breaks(
        "value_of_before_is_taken",
        "What was written back after an invalidation, from before it, is shown.",
        "shop/cache_store.py",
        "if not generation or stored is None or not stored.startswith(generation):",
        "if not generation or stored is None:",
        "tests/invariants/test_cache_orders.py",
    ),
    breaks(
        "nginx_keeps_no_page",
        "Every reader of a crowd is a read at the shop.",
        "deploy/nginx.conf",
        "            proxy_cache pages;\n",
        "",
        "tests/server/test_nginx_pages.py::test_a_crowd_on_a_sales_page_is_a_few_reads_at_the_shop",
    ),
    breaks(
        "side_server_writes_to_the_disk",
        "What may be lost is written into an append-only file, and each write waits for the disk.",
        "shop/embedded/valkey.py",
        "name=SIDE, appendonly=False",
        "name=SIDE, appendonly=True",
        "tests/commands/test_embedded.py::test_the_side_server_evicts_and_writes_nothing_to_the_disk",
    ),
    breaks(
        "failure_takes_the_page_away",
        "A page that cannot be read is gone at once, though it was shown a moment ago.",
        MEMORY,
        "_tell(waiter, stale if failed else done.result(), failed=failed)",
        "_tell(waiter, None if failed else done.result(), failed=failed)",
        f"{OF_PAGES}::test_a_page_that_cannot_be_read_is_shown_for_a_while_and_no_other_suffers",
    ),
    breaks(
        "sale_opens_late_on_its_page",
        "A page says that a sale has not started, though its hour has come.",
        PAGE,
        " or (self._changes_at is not None and now >= self._changes_at)\n",
        "\n",
        f"{OF_PAGES}::test_a_page_changes_at_its_hour_by_the_clock_of_postgres",
    ),
    breaks(
        "persister_of_a_settled_sale",
        "A persister whose sale somebody else has settled waits for ever, with a connection of the worker.",
        "shop/worker/running.py",
        "{**dict.fromkeys(running, OVER), **alive}",
        "alive",
        "tests/orders/test_persisters.py",
    ),
    breaks(
        "foreign_by_an_old_name",
        "A ledger is called foreign by the name that the database had a moment ago.",
        "shop/ledger_owner.py",
        "    until = time.monotonic() + NAME_SECONDS\n",
        "    if name is not None:\n        return False\n    until = time.monotonic() + NAME_SECONDS\n",
        "tests/recovery/test_foreign_ledger.py::"
        "test_a_database_keeps_its_name_for_a_moment_and_is_asked_again_before_a_ledger_is_foreign",
    ),
    breaks(
        "reads_are_not_deferred",
        "A crowd that reads is answered before the one who buys.",
        "shop/server/read_queue.py",
        "if self._at_once < AT_ONCE and not self._waiting:\n",
        "if not self._waiting:\n",
        "tests/server/test_read_queue.py",
    ),
    breaks(
        "no_fair_shares",
        "A crowd of one kind has the whole loop, and every step of the others waits for all of them.",
        "shop/app/fair_shares.py",
        "        if self._balance > 0 and not self._ready:\n",
        "        if True:\n",
        "tests/api/test_fair_shares.py",
    ),
    breaks(
        "gate_loses_slots",
        "A request that is cancelled in the moment of being admitted keeps its slot for ever.",
        "shop/waiting_line.py",
        "                self.leave()  # It was given in the same moment: to the next one.\n",
        "                pass\n",
        "tests/api/test_gates.py",
    ),
    breaks(
        "reads_wait_for_their_statement",
        "While Postgres hangs a shopper waits for as long as a statement may take.",
        "shop/app/reads_in_time.py",
        "await asyncio.wait({reading}, timeout=self._seconds_max)",
        "await asyncio.wait({reading})",
        "tests/faults/test_postgres_hangs.py::"
        "test_while_postgres_hangs_a_read_is_refused_long_before_its_statement_would_end",
    ),
)
