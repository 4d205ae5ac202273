"""Breaks of an order's life: who may move it, and how its units go back once."""

from tests.mutants.mutant import breaks

REPOSITORY, RELEASE, SERVICE = (f"shop/orders/{name}.py" for name in ("repository", "release", "service"))
LIFE = "shop/orders/life.py"
OF_RELEASE, OF_ORDERS, OF_LIFE = (
    "tests/orders/test_release.py",
    "tests/api/test_orders.py",
    "tests/orders/test_life.py",
)

MUTANTS = (
    breaks(
        "hold_cut_short",
        "Orders expire ten seconds before their hold is over, while their buyers pay.",
        REPOSITORY,
        "Order.expires_at <= func.now(), has_sale)",
        "Order.expires_at - timedelta(seconds=10) <= func.now(), has_sale)",
        "tests/orders/test_expiry.py::test_nobody_loses_their_hold_a_few_seconds_early",
    ),
    breaks(
        "move_without_comparing",
        "A cancellation and a payment at the same moment both win.",
        REPOSITORY,
        '.where(_one_of(orders), Order.status.concat("") == before)',
        ".where(_one_of(orders))",
        OF_LIFE,
    ),
    breaks(
        "closed_order_comes_back",
        "A payment opens an order that has expired.",
        LIFE,
        "    moved = await repository.set_status(session, orders, before=COMES_FROM[to], after=to, closes=closes)\n",
        "    moved = await repository.set_status(session, orders, before=COMES_FROM[to], after=to, closes=closes)\n"
        "    if not moved and to is OrderStatus.PAID:\n"
        "        moved = await repository.set_status(\n"
        "            session, orders, before=OrderStatus.EXPIRED, after=to, closes=closes\n"
        "        )\n",
        "tests/payments/test_late_money.py::test_late_money_buys_a_replacement_while_there_are_units",
        OF_LIFE,
    ),
    breaks(
        "release_before_the_commit",
        "The units of a cancelled order are on sale although the cancellation is rolled back.",
        SERVICE,
        "                after_commit(session, partial(_give_back, database, client, owed, settings))\n",
        "                await _give_back(database, client, owed, settings)\n",
        "tests/faults/test_cancels.py",
    ),
    breaks(
        "hook_runs_without_a_commit",
        "What is to happen after a commit happens after a rollback too.",
        "shop/database.py",
        "            yield session\n            try:\n",
        "            try:\n                yield session\n            except BaseException:\n"
        "                for callback in session.info.pop(AFTER_COMMIT, []):\n"
        "                    await _run_after_commit(callback)\n                raise\n            try:\n",
        "tests/selling/test_product_changes.py::test_a_change_that_is_rolled_back_leaves_the_cache_alone",
    ),
    breaks(
        "released_row_is_released_again",
        "A row whose units are back is counted as back once more.",
        REPOSITORY,
        "        .where(_one_of(order_ids), is_waiting)\n",
        "        .where(_one_of(order_ids), Order.closed_at.is_not(None))\n",
        f"{OF_RELEASE}::test_units_that_are_owed_to_a_settled_sale_go_to_the_product_once",
    ),
    breaks(
        "nobody_sweeps",
        "Units whose release was lost never come back.",
        "shop/orders/release.py",
        "    queue: deque[tuple[int, Cursor | None]] = deque((sale_id, None) for sale_id in sale_ids)\n",
        "    queue: deque[tuple[int, Cursor | None]] = deque()\n",
        f"{OF_RELEASE}::test_the_worker_sweeps_by_itself",
    ),
    breaks(
        "units_after_the_end_are_lost",
        "Units that come back after the end belong to nobody.",
        "shop/orders/batch.py",
        "        await products.give_stock(session, sale.product_id, to_product)\n",
        "",
        f"{OF_RELEASE}::test_units_released_after_the_end_go_to_the_product",
    ),
    breaks(
        "expiry_waits_for_locked_orders",
        "One payment that is slow holds up the expiry of all other orders.",
        REPOSITORY,
        ".with_for_update(skip_locked=True, key_share=True)",
        ".with_for_update(key_share=True)",
        "tests/orders/test_expiry.py::test_an_order_that_a_payment_has_locked_does_not_stop_the_others",
    ),
    breaks(
        "ordinary_units_stay_away",
        "The units of a cancelled ordinary order do not come back to the stock.",
        LIFE,
        "    if closes and ordinary:\n",
        "    if False:\n",
        "tests/orders/test_ordinary_stock.py::test_a_cancelled_order_is_back_in_stock_with_the_answer",
    ),
    breaks(
        "stock_below_zero",
        "A sale and an order take the same last unit.",
        "shop/products/repository.py",
        "        .where(Product.id == product_id, Product.stock >= units)\n",
        "        .where(Product.id == product_id)\n",
        "tests/api/test_drafts.py::test_two_sales_of_one_product_cannot_take_the_same_units",
        "tests/selling/test_product_changes.py::test_units_are_taken_whole_or_not_at_all",
    ),
    breaks(
        "half_an_order",
        "An ordinary order takes the lines that are there, and says nothing of the others.",
        "shop/orders/placing.py",
        "        if product.id not in taken:\n            raise NotEnoughStock(product_id=product.id)\n",
        "",
        "tests/orders/test_placing.py::test_a_line_that_is_short_leaves_every_other_line_in_stock",
    ),
    breaks(
        "an_item_that_fails_ends_its_loop",
        "One sale that cannot be followed keeps all later ones waiting.",
        "shop/failure_isolation.py",
        "            self.failed(item, error)\n            if is_transient(error):\n                raise\n",
        "            self.failed(item, error)\n            raise\n",
        "tests/faults/isolation/test_items.py::test_an_item_that_fails_keeps_nobody_waiting_and_is_counted",
    ),
    breaks(
        "a_batch_fails_with_one_order",
        "One order that cannot be closed keeps all others from expiring.",
        "shop/orders/expiry.py",
        "        closed = await isolation.together(order_ids, close)\n",
        "        raise\n",
        "tests/faults/isolation/test_jobs.py::test_an_order_that_cannot_be_closed_lets_all_others_expire",
    ),
)
