"""Breaks of what admins and the controller do to a sale, and of the audit that proves it."""

from tests.mutants.mutant import Edit, Mutant, breaks

CONTROLLER, CHANGES, SERVICE = (f"shop/sales/{name}.py" for name in ("controller", "changes", "service"))
READING, INVARIANTS = "shop/audit/reading.py", "shop/audit/invariants.py"
OF_ADMINS, OF_LOSSES = "tests/api/test_sales_admin.py", "tests/recovery/test_losses.py"
OF_AUDIT, OF_VIOLATIONS = "tests/recovery/audit/test_full_pass.py", "tests/recovery/audit/test_violations.py"
STOPPING = "shop/audit/live/stop_sale.py"

WARM_UP = """\
        try:
            state = await require_agreement(self._client, sale)
        except LedgerLost:
            fields = {"starts_ms": 0, "ends_ms": 2**45, "units_per_user": sale.units_per_user, "applied": sale.changes}
            fields |= {"orders_per_user": sale.orders_per_user, "price_minor": sale.price_minor, "held_back": 0}
            fields |= {"available": sale.units - sale.units_taken, "backlog_max": 9_999, "skew_ms": 0}
            name = {"client": self._client, "sale_id": sale.id, "epoch": sale.epoch, "token": "warm", "timeout": 1.0}
            await loading.begin_load(**name, fields={**fields, "winner_bits": 1024})
            await loading.open_load(**name)
            return
"""

MUTANTS = (
    breaks(
        "warm_up_from_postgres",
        "Keys that are missing are filled from Postgres while orders are in flight.",
        CONTROLLER,
        "        state = await require_agreement(self._client, sale)\n        if state.state",
        f"{WARM_UP}        if state.state",
        "tests/recovery/test_noticed.py::test_a_ledger_whose_keys_are_missing_is_not_filled_from_postgres",
    ),
    breaks(
        "settled_with_open_orders",
        "A sale is settled while a buyer may still cancel.",
        CONTROLLER,
        "            if await self._unfinished(session, sale.id):\n                return False\n",
        "",
        f"{OF_ADMINS}::test_a_sale_with_an_open_order_does_not_settle",
    ),
    breaks(
        "unsold_units_are_lost",
        "After the end the product does not get back what was not sold.",
        CHANGES,
        "            sale.status = SaleStatus.ENDED\n            await _return_units(session, sale, -delta)\n",
        "            sale.status = SaleStatus.ENDED\n",
        f"{OF_ADMINS}::test_the_stock_of_the_product_follows_every_step_exactly",
    ),
    breaks(
        "refused_units_are_lost",
        "Units that were granted and that the ledger refused stay out of the product.",
        CHANGES,
        "            await _return_units(session, sale, change.units_delta)\n        return True\n",
        "            pass\n        return True\n",
        "tests/selling/test_sale_changes.py::test_units_that_the_ledger_refuses_are_back_in_the_product",
    ),
    breaks(
        "units_out_of_nothing",
        "More units are put on sale than leave the product.",
        SERVICE,
        "        if not await products.take_stock(session, sale.product_id, delta):\n"
        '            raise NotEnoughStock(f"The product does not have {delta} units in stock")\n',
        "",
        f"{OF_ADMINS}::test_units_go_up_by_what_the_product_has",
    ),
    breaks(
        "scheduled_twice",
        "Scheduling again takes the units again.",
        SERVICE,
        '    if sale.status != SaleStatus.DRAFT:\n        raise SaleStateConflict(f"The sale is already',
        '    if False:\n        raise SaleStateConflict(f"The sale is already',
        "tests/api/test_drafts.py::test_a_sale_is_scheduled_once_however_many_try",
    ),
    breaks(
        "resumed_under_an_alarm",
        "An admin opens a sale whose entries cannot be recorded.",
        SERVICE,
        "    if sale.alarm is not None:\n",
        "    if False:\n",
        "tests/selling/test_sale_changes.py::test_a_sale_that_an_alarm_has_stopped_is_not_resumed",
    ),
    breaks(
        "change_missing_in_the_ledger_is_passed_over",
        "A ledger that lost a change goes on selling by the rules of before.",
        CHANGES,
        '            raise ChangeOutOfOrder(f"change {change.n} follows {answer.fields[0]} in the ledger")\n',
        "            break\n",
        "tests/recovery/test_noticed.py::test_a_change_that_the_ledger_has_forgotten_is_noticed_by_the_next_one",
    ),
    breaks(
        "open_changes_forgotten",
        "A new ledger begins without the pause that an admin has just asked for.",
        "shop/recovery/renewing.py",
        "        await close_open_changes(session, sale, spare=sale.units - sale.units_taken - wanted, now=now)\n",
        "",
        f"{OF_LOSSES}::test_a_pause_and_a_change_of_units_that_were_under_way_are_kept",
    ),
    breaks(
        "audit_sets_the_stock",
        "The audit puts Redis right, and takes the orders on their way for a fault.",
        READING,
        "    try:\n        events = [parse_event(*entry) for entry in entries]\n",
        "    keys = ledger.ledger_keys(sale.id, sale.epoch)\n"
        '    await ledger.command(client, "HSET", keys.sale, "available", sale.watermark_balance)\n'
        "    try:\n        events = [parse_event(*entry) for entry in entries]\n",
        OF_AUDIT,
    ),
    breaks(
        "audit_blind_to_gaps",
        "I1 always holds.",
        INVARIANTS,
        '        "I1": _gaps(counted),\n',
        '        "I1": [],\n',
        OF_AUDIT,
    ),
    breaks(
        "audit_blind_to_the_chain",
        "I2 always holds.",
        INVARIANTS,
        '        "I2": _breaks(counted),\n',
        '        "I2": [],\n',
        OF_AUDIT,
    ),
    breaks(
        "audit_blind_to_missing_units",
        "I3 always holds.",
        INVARIANTS,
        '        "I3": _conservation(counted) if counted.at_watermark else [],\n',
        '        "I3": [],\n',
        OF_AUDIT,
    ),
    breaks(
        "audit_blind_to_an_oversell",
        "I4 always holds.",
        INVARIANTS,
        '        "I4": _oversell(counted) if counted.at_watermark else [],\n',
        '        "I4": [],\n',
        OF_AUDIT,
    ),
    breaks(
        "audit_blind_to_the_limit",
        "I5 always holds.",
        INVARIANTS,
        '        "I5": _limit(counted),\n',
        '        "I5": [],\n',
        OF_AUDIT,
    ),
    breaks(
        "audit_blind_to_promises",
        "I6 always holds.",
        INVARIANTS,
        '        "I6": _promises(counted),\n',
        '        "I6": [],\n',
        OF_VIOLATIONS,
    ),
    breaks(
        "violation_does_not_stop_the_sale",
        "What the audit proves wrong is written down, and the sale goes on.",
        STOPPING,
        "violations=sentences)\n    await fence(client, found)\n",
        "violations=sentences)\n",
        OF_VIOLATIONS,
    ),
    breaks(
        "anybody_opens_a_stopped_sale",
        "The controller recovers a sale that an operator has to look at.",
        "shop/sales/incidents/repository.py",
        "    may_begin = true() if by_operator else Sale.stopped_at.is_(None)\n",
        "    may_begin = true()\n",
        "tests/recovery/audit/test_stopping.py::test_nothing_but_an_operator_recovers_a_stopped_sale",
    ),
    breaks(
        "verified_without_comparing",
        "An auditor that thaws sets the verified position back.",
        "shop/audit/live/repository.py",
        "SaleAudit.epoch == seen.epoch, SaleAudit.verified_seq == seen.seq)",
        "SaleAudit.epoch == seen.epoch)",
        "tests/recovery/audit/test_auditors.py::test_an_auditor_that_was_stopped_and_thaws_changes_nothing",
    ),
    Mutant(
        "audit_forgets_closing_orders",
        "Orders that are closed and whose units are not back count as gone.",
        (
            Edit(
                "shop/audit/repository.py",
                "    closing = Order.closed_at.is_not(None)\n",
                "    closing = Order.closed_at.is_not(None) & Order.released_at.is_not(None)\n",
            ),
        ),
        (OF_AUDIT,),
    ),
)
