"""Breaks of what happens when Redis has lost something: the sale is closed, compared, and goes on."""

from tests.mutants.mutant import Edit, Mutant, breaks

STEPS, RENEWING, COMPARING = (f"shop/audit/recovery/{name}.py" for name in ("steps", "renewing", "comparing"))
RECOVERIES, ORDERS = "shop/sales/recovery/repository.py", "shop/audit/recovery/repository.py"
DEMAND, CLAIMS = "shop/sales/recovery/demand.py", "shop/orders/claims.py"
OF_LOSSES, OF_RECEIPTS, OF_LEASE = (f"tests/recovery/test_{name}.py" for name in ("losses", "receipts", "lease"))
OF_POISON, OF_STEPS, OF_NOTICED = (
    "tests/pipeline/test_poison.py",
    "tests/recovery/test_steps.py",
    "tests/recovery/test_noticed.py",
)
KNOWN_BY_A_PROCESS = f"{OF_LOSSES}::test_what_only_a_living_process_knows_is_handed_in_by_it"
IN_ITS_WINDOW = f"{OF_RECEIPTS}::test_a_receipt_shown_in_its_window_brings_the_order_back"
UNNOTICED = f"{OF_RECEIPTS}::test_a_receipt_tells_of_a_loss_that_nobody_has_noticed"
AFTER_THE_WINDOW = f"{OF_RECEIPTS}::test_after_the_window_a_receipt_is_too_late_and_its_units_are_on_sale"
NOT_HIS_OWN = f"{OF_RECEIPTS}::test_a_receipt_that_is_not_the_buyers_own_brings_nothing"
ASKED_FOR = f"{OF_LOSSES}::test_an_operator_may_ask_for_a_comparison"

MUTANTS = (
    breaks(
        "lost_ledger_sells_on",
        "Whoever finds a loss does not close the sale; it sells until a worker comes.",
        DEMAND,
        "    await building.fence(client, sale.id, [sale.epoch], number=recovery.n, may_load=False)\n",
        "",
        f"{OF_NOTICED}::test_an_order_that_the_ledger_has_forgotten_is_noticed_by_the_process_that_promised_it",
    ),
    breaks(
        "recovery_without_fence",
        "The ledger is compared while buyers go on buying from it.",
        STEPS,
        "    await building.fence(tools.client, recovery.sale_id, range(1, newest + 1), number=recovery.n)\n"
        "    return await _advance(tools, recovery, RecoveryStep.COMPARE)\n",
        "    return await _advance(tools, recovery, RecoveryStep.COMPARE)\n",
        ASKED_FOR,
    ),
    breaks(
        "recovery_holds_nothing_back",
        "The units of promises that nobody can explain are sold to others.",
        RENEWING,
        "held_back=min(sale.units - sale.units_taken, wanted))",
        "held_back=0)",
        IN_ITS_WINDOW,
    ),
    breaks(
        "second_recovery_forgets_the_first",
        "What an earlier recovery holds back is sold after the next one.",
        RENEWING,
        " + handed_in.units + sale.held_back\n",
        " + handed_in.units\n",
        f"{OF_RECEIPTS}::test_a_second_loss_keeps_what_is_held_back_since_the_first",
    ),
    breaks(
        "lost_events_not_counted",
        "Nothing is held back for the events that Redis has lost.",
        RENEWING,
        "        unexplained = max(highest_seq - sale.watermark - handed_in.explains, 0)\n",
        "        unexplained = 0\n",
        IN_ITS_WINDOW,
    ),
    breaks(
        "promises_not_honoured",
        "What processes and the old ledger promised is not reserved again.",
        "shop/audit/recovery/honouring.py",
        "    refused = 0\n    async with",
        "    return 0\n    async with",
        "tests/recovery/test_restored_postgres.py",
        KNOWN_BY_A_PROCESS,
    ),
    breaks(
        "held_entries_not_gathered",
        "An order whose event is lost, and which its ledger still has, is lost.",
        STEPS,
        "    await gather_survivors(tools.database, tools.client, recovery)\n",
        "",
        "tests/recovery/test_restored_postgres.py",
    ),
    breaks(
        "promises_in_a_released_entry_honoured",
        "An entry that was released is reserved again.",
        RENEWING,
        "        if order.held and ours and possible:\n",
        "        if ours and possible:\n",
        "tests/recovery/test_restored_postgres.py::test_an_order_that_was_cancelled_and_forgotten_stays_cancelled",
    ),
    breaks(
        "quarantined_entries_honoured",
        "The entry that could not be recorded comes back as a promise, and is poison again.",
        ORDERS,
        "        (RecoveryClaim.outcome.is_(None) & quarantined, ClaimOutcome.QUARANTINED),\n",
        "",
        f"{OF_POISON}::test_an_order_whose_entry_was_set_aside_is_not_honoured",
    ),
    breaks(
        "honoured_claims_stay_closed",
        "What was honoured in a ledger that is lost as well is not honoured in the next one.",
        ORDERS,
        "where(honoured, ~_HAS_ROW).values(outcome=None)",
        "where(honoured, _HAS_ROW, ~_HAS_ROW).values(outcome=None)",
        f"{OF_STEPS}::test_a_loss_in_the_middle_of_a_recovery_is_recovered_too",
    ),
    breaks(
        "step_not_compared_and_set",
        "A worker that was stopped and thawed writes the step of before.",
        RECOVERIES,
        "Recovery.n == recovery.n, Recovery.step == recovery.step)\n        .values(step=to",
        "Recovery.n == recovery.n)\n        .values(step=to",
        OF_LEASE,
    ),
    breaks(
        "recovery_without_lease",
        "Two workers build the same ledger in turns, and neither comes to an end.",
        RECOVERIES,
        "            Recovery.leased_until.is_(None) | (Recovery.leased_until < func.now()) |"
        " (Recovery.leased_by == worker_id),\n",
        "",
        OF_LEASE,
    ),
    breaks(
        "two_recoveries_at_once",
        "Whoever finds the same loss a moment later begins another recovery.",
        RECOVERIES,
        "Sale.epoch == epoch, Sale.recovery == seen, may_begin, ~_unfinished(sale_id).exists()\n",
        "Sale.epoch == epoch, may_begin\n",
        OF_LEASE,
    ),
    breaks(
        "epoch_that_was_there_before",
        "After Postgres was restored, the new epoch is one that Redis knows already.",
        RENEWING,
        "    to_epoch = await building.newest_epoch(client, recovery.sale_id, recovery.from_epoch) + 1\n",
        "    to_epoch = recovery.from_epoch + 1\n",
        "tests/recovery/test_restored_postgres.py",
    ),
    Mutant(
        "handed_in_not_compared",
        "A ledger that lacks what a process hands in, or is behind what it has seen, keeps its epoch.",
        (
            Edit(COMPARING, " or missing:\n", ":\n"),
            Edit(COMPARING, " or highest_seq > state.seq:\n", ":\n"),
        ),
        (KNOWN_BY_A_PROCESS,),
    ),
    breaks(
        "processes_not_waited_for",
        "A recovery decides before those who sold have said what they promised.",
        STEPS,
        "            return False\n    await tools.persister",
        "            pass\n    await tools.persister",
        KNOWN_BY_A_PROCESS,
        ASKED_FOR,
    ),
    breaks(
        "new_run_not_compared",
        "A Redis that came back with older data sells on.",
        "shop/sales/controller.py",
        "                if each.run_id is not None:\n",
        "                if False:\n",
        KNOWN_BY_A_PROCESS,
        f"{OF_LOSSES}::test_a_restart_on_older_data_begins_a_new_epoch",
    ),
    breaks(
        "missing_orders_not_noticed",
        "A ledger that has forgotten its buyers or its orders sells on.",
        "shop/sales/loading.py",
        "    if sale.units_taken > 0 and not state.has_orders:\n",
        "    if False:\n",
        f"{OF_LOSSES}::test_a_part_of_a_ledger_that_is_missing_is_noticed_and_replaced",
    ),
    breaks(
        "closed_orders_owe_still",
        "Units that the lost ledger had given back and sold again are missing for their new buyers.",
        RENEWING,
        "        await _release_owed(session, sale)\n",
        "",
        f"{OF_LOSSES}::test_a_unit_that_came_back_and_was_sold_again_before_the_loss_is_its_new_buyers",
    ),
    breaks(
        "new_ledger_without_orders",
        "After a recovery nobody has bought anything: limits and repeats begin anew.",
        STEPS,
        "await build(tools.database, tools.client, sale, epoch, tools.settings, orders=orders)",
        "await build(tools.database, tools.client, sale, epoch, tools.settings)",
        f"{OF_LOSSES}::test_a_flushed_sale_goes_on_in_a_new_epoch_and_sells_what_is_left",
    ),
    breaks(
        "new_ledger_without_winners",
        "After a recovery the sold-out latch takes every winner for a loser.",
        "lua/load_sale.lua",
        "  for _, bit in ipairs(new_bits) do redis.call('SETBIT', winners, bit, 1) end\n",
        "",
        "tests/lua/test_honour.py",
    ),
    breaks(
        "late_claims_not_honoured",
        "What a process hands in after the recovery is lost.",
        "shop/audit/recovery/following.py",
        "        if late:\n",
        "        if False:\n",
        "tests/recovery/test_memory.py::test_a_process_that_slept_through_the_recovery_hands_in_what_it_had",
    ),
    breaks(
        "held_back_for_ever",
        "What is held back is never on sale again.",
        "shop/audit/recovery/following.py",
        "        elif restore:\n",
        "        elif False:\n",
        AFTER_THE_WINDOW,
    ),
    breaks(
        "receipts_for_ever",
        "A receipt takes a unit that is on sale again.",
        RECOVERIES,
        "            Recovery.from_epoch == promise.epoch,\n            in_window,\n",
        "            Recovery.from_epoch == promise.epoch,\n",
        AFTER_THE_WINDOW,
    ),
    breaks(
        "receipt_not_verified",
        "Whoever writes a receipt has an order.",
        "shop/seckill/receipts.py",
        "            if not hmac.compare_digest(signature, self._signature(kind, payload)):\n",
        "            if False:\n",
        NOT_HIS_OWN,
    ),
    breaks(
        "receipt_of_another_buyer",
        "Whoever finds a receipt has the order.",
        CLAIMS,
        "    if (receipt.order_id, receipt.user_id) != (str(order_id), buyer_id):\n",
        "    if receipt.order_id != str(order_id):\n",
        NOT_HIS_OWN,
        UNNOTICED,
    ),
    breaks(
        "rolled_back_ledger_not_reported",
        "A process that is told BEHIND keeps it to itself.",
        "shop/app/directory.py",
        "        if sale is not None and sale.epoch == epoch:\n            await demand_recovery(",
        "        if False:\n            await demand_recovery(",
        "tests/recovery/test_noticed.py::"
        "test_an_order_that_the_ledger_has_forgotten_is_noticed_by_the_process_that_promised_it",
    ),
    breaks(
        "beat_forgets_too_much",
        "A process forgets promises that Postgres does not have yet.",
        "shop/app/beats.py",
        "            group.forget(now.watermark)\n",
        "            group.handed_in(len(group.undrained))\n",
        f"{OF_LOSSES}::test_a_sale_that_is_flushed_in_mid_sale_keeps_every_promise",
        KNOWN_BY_A_PROCESS,
    ),
)
