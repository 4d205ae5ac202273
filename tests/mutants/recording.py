"""Breaks of the way from the stream into Postgres: each event once, whoever dies in between."""

from tests.mutants.mutant import Edit, Mutant, breaks

PERSISTER, BATCH, DATABASE = "shop/orders/persister.py", "shop/orders/batch.py", "shop/database.py"
OF_WORKERS, OF_POISON = "tests/faults/test_workers.py", "tests/orders/test_poison.py"
OF_NOTICED = "tests/recovery/test_noticed.py"
IMPOSSIBLE = f"{OF_POISON}::test_an_impossible_entry_stops_the_sale_and_can_be_quarantined"

MUTANTS = (
    breaks(
        "watermark_before_the_rows",
        "The entries are acknowledged in a transaction of their own, before they are recorded.",
        PERSISTER,
        "        async with self._database.transaction() as session:\n"
        "            sale = await self._lock(session)\n"
        "            now = await sales.database_time(session)\n",
        "        async with self._database.transaction() as session:\n"
        "            sale = await self._lock(session)\n"
        "            before = sale.watermark\n"
        "            sale.watermark = max([before, *(event.seq for event in events)])\n"
        "        async with self._database.transaction() as session:\n"
        "            sale = await self._lock(session)\n"
        "            sale.watermark = before\n"
        "            now = await sales.database_time(session)\n",
        f"{OF_WORKERS}::test_a_worker_killed_before_the_commit_loses_nothing",
    ),
    breaks(
        "orders_without_lines_are_not_counted",
        "No audit sees that an order has no line, or a line no order.",
        "shop/audit/service.py",
        "        unpaired=await repository.unpaired(session, sale.id),\n",
        "",
        "tests/recovery/audit/test_full_pass.py::test_an_order_and_its_line_are_there_together",
    ),
    breaks(
        "trim_before_the_commit",
        "The entries leave the stream before they are recorded.",
        PERSISTER,
        "        await self._record(events)\n        self._batch_max = self._settings.persist_batch_max\n",
        "        await stream.trim(self._client, self._sale_id, position.epoch, events[-1].seq)\n"
        "        await self._record(events)\n        self._batch_max = self._settings.persist_batch_max\n",
        f"{OF_WORKERS}::test_a_worker_killed_before_the_commit_loses_nothing",
    ),
    breaks(
        "entry_at_the_watermark_trimmed",
        "Nothing ties the stream to what Postgres has recorded.",
        "shop/ledger/stream.py",
        'minid=f"{watermark}-0"',
        'minid=f"{watermark + 1}-0"',
        "tests/orders/test_release.py::test_the_worker_sweeps_by_itself",
    ),
    breaks(
        "entry_at_the_watermark_not_compared",
        "A stream that was rolled back and has grown again is taken for the one that was recorded.",
        "shop/orders/reading.py",
        "            if not kept or kept[0][0] != position.watermark or not is_recorded(*kept[0], position.entry):\n",
        "            if not kept or kept[0][0] != position.watermark:\n",
        f"{OF_NOTICED}::test_another_entry_at_the_watermark_is_noticed_by_the_worker",
    ),
    breaks(
        "read_ahead_for_whoever_asks",
        "A batch that failed is left out: the one behind it, which was read ahead, is taken for it.",
        "shop/orders/reading.py",
        "        if self._ahead is not None and self._ahead[0] == position:\n",
        "        if self._ahead is not None:\n",
        "tests/orders/test_reading.py",
    ),
    breaks(
        "no_epoch_check_in_persister",
        "A persister that was stopped during a recovery writes entries of the old epoch into the new one.",
        PERSISTER,
        "            if self._position is None or sale.epoch != self._position.epoch:\n                fresh = []\n",
        "",
        f"{OF_NOTICED}::test_a_persister_that_slept_through_a_recovery_records_nothing_of_the_old_epoch",
    ),
    breaks(
        "no_lock_on_the_sale",
        "Two workers compare the watermark at the same time.",
        "shop/sales/repository.py",
        "return await session.get(Sale, sale_id, with_for_update=True, populate_existing=True)",
        "return await session.get(Sale, sale_id, populate_existing=True)",
        f"{OF_WORKERS}::test_a_batch_that_cannot_get_the_row_is_given_up_in_time_and_tried_again",
    ),
    breaks(
        "no_comparison_under_the_lock",
        "Whoever waited for the lock writes what the other one has written.",
        PERSISTER,
        "            fresh = [event for event in events if event.seq > sale.watermark]\n",
        "            fresh = list(events)\n",
        f"{OF_WORKERS}::test_a_persister_that_slept_drops_what_another_has_recorded",
    ),
    breaks(
        "duplicates_are_dropped_in_silence",
        "ON CONFLICT DO NOTHING hides an order that is there already, and its units are counted twice.",
        DATABASE,
        "        await driver.copy_records_to_table(table, columns=columns, records=rows)\n",
        '        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))\n'
        "        query = f\"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT DO NOTHING\"\n"
        "        await driver.executemany(query, list(rows))\n",
        f"{IMPOSSIBLE}[an-order-that-is-there-already]",
    ),
    breaks(
        "units_taken_not_moved",
        "The guard row does not count what is sold.",
        BATCH,
        "        sale.units_taken += sum(event.quantity for event in reserved)\n",
        "",
        f"{OF_POISON}::test_postgres_vetoes_an_oversell_by_itself",
    ),
    breaks(
        "guard_without_its_check",
        "Postgres does not veto an oversell.",
        "migrations/versions/2026_11_21_create_tables.py",
        '        sa.CheckConstraint("units_taken <= units", name=op.f("ck_sales_no_oversell")),\n',
        "",
        f"{OF_POISON}::test_postgres_vetoes_an_oversell_by_itself",
    ),
    breaks(
        "chain_not_checked",
        "A balance that does not follow from the one before is recorded.",
        BATCH,
        "        if event.balance != balance + event.delta:\n",
        "        if False:\n",
        f"{IMPOSSIBLE}[a-balance-that-does-not-follow]",
    ),
    breaks(
        "gap_not_noticed",
        "An entry that is missing is passed over, and its order with it.",
        BATCH,
        "        if event.seq != seq + 1:\n",
        "        if False:\n",
        f"{OF_POISON}::test_a_gap_stops_the_sale_and_cannot_be_quarantined",
    ),
    breaks(
        "delta_not_compared",
        "An event may move other units than its order has.",
        BATCH,
        "        if event.kind in STOCK_KINDS and event.delta not in _deltas(event):\n",
        "        if False:\n",
        f"{IMPOSSIBLE}[a-delta-of-more-than-its-quantity]",
    ),
    breaks(
        "release_of_an_open_order_recorded",
        "The event of a release is believed without a closed order.",
        BATCH,
        "        if event.order_id is None or units_of.get(event.order_id) != event.quantity:\n",
        "        if event.order_id is None:\n",
        f"{IMPOSSIBLE}[the-release-of-an-order-that-is-open]",
    ),
    breaks(
        "change_of_nobody_recorded",
        "The event of a change is believed without its row.",
        BATCH,
        "    if not recorded:\n",
        "    if False:\n",
        f"{IMPOSSIBLE}[a-change-that-nobody-asked-for]",
    ),
    breaks(
        "poison_is_tried_for_ever",
        "An entry that cannot be recorded stops the drain, and nobody hears of it.",
        PERSISTER,
        "        return sqlstate(error)[:2] in DATA_CLASSES\n    if isinstance(error, asyncpg.PostgresError):\n"
        '        return str(error.sqlstate or "")[:2] in DATA_CLASSES\n'
        "    return isinstance(error, asyncpg.DataError | ValueError)\n",
        "        return False\n    return False\n",
        f"{IMPOSSIBLE}[a-user-id-that-no-token-has]",
        f"{OF_POISON}::test_postgres_vetoes_an_oversell_by_itself",
    ),
    breaks(
        "poisoned_sale_sells_on",
        "The alarm rings, and the sale goes on promising what cannot be recorded.",
        "shop/orders/poison.py",
        "            await service.pause(session, CONTROLLER, sale_id)\n",
        "            pass\n",
        f"{IMPOSSIBLE}[nothing-that-can-be-read]",
    ),
    breaks(
        "standby_is_taken_for_a_defect",
        "Every write in a failover is an error of ours, and the pool never finds the new primary.",
        "shop/database_engine.py",
        'ELSEWHERE = frozenset({"25006", "26000"})',
        'ELSEWHERE = frozenset({"26000"})',
        "tests/faults/test_postgres_states.py",
    ),
    breaks(
        "transient_failure_is_taken_for_poison",
        "A connection that breaks stops the sale for good.",
        PERSISTER,
        "            if _is_about_data(error):\n",
        "            if True:\n",
        f"{OF_WORKERS}::test_a_worker_stopped_inside_copy_does_not_hold_up_the_sale",
        "tests/faults/test_postgres_hangs.py::"
        "test_a_postgres_killed_and_restarted_in_mid_drain_loses_and_doubles_nothing",
    ),
    breaks(
        "idle_transactions_live_for_ever",
        "A worker that was stopped in mid-batch holds the sale's row.",
        DATABASE,
        '"idle_in_transaction_session_timeout": f"{idle_seconds * 1000:.0f}",',
        '"idle_in_transaction_session_timeout": "0",',
        f"{OF_WORKERS}::test_a_worker_stopped_in_mid_batch_does_not_hold_up_the_sale",
    ),
    breaks(
        "stuck_persister_is_not_ended",
        "A worker that was stopped inside COPY holds the sale's row.",
        PERSISTER,
        "ended = await end_blockers(other, pid, application_name=name)",
        "ended = 0",
        f"{OF_WORKERS}::test_a_worker_stopped_inside_copy_does_not_hold_up_the_sale",
    ),
    Mutant(
        "hold_by_the_workers_clock",
        "A worker whose clock is fast lets holds expire that are not over.",
        (
            Edit(
                "shop/orders/repository.py",
                "from datetime import datetime, timedelta\n",
                "from datetime import UTC, datetime, timedelta\n",
            ),
            Edit(
                "shop/orders/repository.py",
                ".where(Order.status == OrderStatus.RESERVED, Order.expires_at <= func.now(), has_sale)",
                ".where(Order.status == OrderStatus.RESERVED, Order.expires_at <= datetime.now(UTC), has_sale)",
            ),
        ),
        ("tests/house/test_rules.py::test_no_clock_of_a_process_decides_about_an_order",),
    ),
)
