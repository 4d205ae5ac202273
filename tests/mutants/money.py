"""Breaks of payments and refunds: money is somewhere, and only once (I11)."""

from tests.mutants.mutant import breaks

MATCHING, EVENTS, SERVICE = (f"shop/payments/{name}.py" for name in ("matching", "events", "service"))
OF_LATE_MONEY, OF_REFUNDS, OF_PAYING = (
    f"tests/payments/test_{name}.py" for name in ("late_money", "refunds", "paying")
)
OF_EVENTS = "tests/payments/test_events.py"

MUTANTS = (
    breaks(
        "late_money_is_kept",
        "Money that comes after a cancellation stays, and nobody says so.",
        MATCHING,
        '        await _give_back(session, payment, f"the order was {order.status}")\n',
        "        payment.settled_at = await sales.database_time(session)\n",
        f"{OF_LATE_MONEY}::test_money_after_a_cancellation_goes_back",
    ),
    breaks(
        "late_money_is_attached",
        "Money that comes after expiry pays an order whose units are sold to others.",
        MATCHING,
        "    elif order.status != OrderStatus.EXPIRED:\n",
        "    elif order.status == OrderStatus.EXPIRED:\n"
        "        payment.paid_order_id, payment.settled_at = order.id, await sales.database_time(session)\n"
        "    elif order.status != OrderStatus.EXPIRED:\n",
        f"{OF_LATE_MONEY}::test_late_money_goes_back_when_the_units_are_sold_to_others",
    ),
    breaks(
        "late_money_refused_is_forgotten",
        "When the ledger has no units for late money, the money stays where it is.",
        MATCHING,
        "            await _give_back(session, payment, refused)\n",
        "            payment.settled_at = await sales.database_time(session)\n",
        f"{OF_LATE_MONEY}::test_late_money_goes_back_when_the_units_are_sold_to_others",
    ),
    breaks(
        "every_try_is_another_replacement",
        "Settling again buys again.",
        MATCHING,
        "order.user_id, order.id))",
        'order.user_id, __import__("uuid").uuid4()))',
        f"{OF_LATE_MONEY}::test_matching_again_and_from_two_workers_makes_one_replacement",
        f"{OF_LATE_MONEY}::test_late_money_buys_a_replacement_while_there_are_units",
    ),
    breaks(
        "webhook_without_signature",
        "Anybody can say that an order is paid.",
        "shop/payments/webhook_signature.py",
        "    if not any(_is_signed(secret, signed, body) for secret in settings.webhook_secrets):\n",
        "    if False:\n",
        "tests/payments/test_webhook_signature.py",
    ),
    breaks(
        "amount_not_compared",
        "A payment of one cent pays the order.",
        EVENTS,
        "        and payment.amount_minor == intent.amount_minor\n",
        "",
        OF_EVENTS,
    ),
    breaks(
        "captured_amount_not_compared",
        "A part of the money pays the order.",
        EVENTS,
        "        and intent.captured_minor in (0, payment.amount_minor)\n",
        "",
        f"{OF_EVENTS}::test_money_that_was_not_asked_for_leaves_the_order_as_it_is_and_rings",
    ),
    breaks(
        "strange_events_stop_the_list",
        "An event that the shop cannot read keeps the money of all others from being seen.",
        "shop/payments/contract.py",
        "    except (ValueError, RecursionError) as error:\n        named,",
        "    except ZeroDivisionError as error:\n        named,",
        "tests/payments/test_gateway_answers.py::test_an_event_that_cannot_be_read_hides_no_other_and_blames_nobody",
    ),
    breaks(
        "refund_without_its_key",
        "An admin whose answer was lost refunds again, or is told that they cannot.",
        "shop/payments/router.py",
        "    return answer(await once(session, asked, work, status=202))\n",
        '    return Response((await work()).model_dump_json(), status_code=202, media_type="application/json")\n',
        f"{OF_REFUNDS}::test_the_same_key_refunds_once_and_gives_the_same_answer",
    ),
    breaks(
        "payment_of_an_order_that_is_over",
        "A buyer is sent to pay for a hold that has run out.",
        SERVICE,
        "    if await orders.hold_is_over(session, order.id):\n",
        "    if False:\n",
        f"{OF_PAYING}::test_a_paid_a_cancelled_and_an_expired_order_take_no_payment",
    ),
    breaks(
        "kept_units_are_given_back",
        "A refund without restock puts the units on sale.",
        SERVICE,
        "reason=wish.reason, closes=wish.restock)",
        "reason=wish.reason, closes=True)",
        f"{OF_REFUNDS}::test_a_refund_without_restock_keeps_the_units",
    ),
    breaks(
        "needless_intents_live_on",
        "The payment page of a cancelled order still takes money.",
        "shop/payments/provider.py",
        "_ask_and_apply(database, needless, ",
        "_ask_and_apply(database, needless[:0], ",
        "tests/payments/test_provider.py::test_the_intent_of_a_cancelled_and_of_an_expired_order_can_no_longer_be_paid",
    ),
    breaks(
        "money_is_counted_twice",
        "A payment that is counted stays marked: the report adds it again and again.",
        "shop/payments/totals/repository.py",
        "values(counted=_standing(), recount=False)",
        "values(recount=True)",
        "tests/payments/test_totals.py::test_the_report_is_the_sum_of_all_payments_whenever_they_were_counted",
    ),
    breaks(
        "buyers_sent_anywhere",
        "The provider sends a buyer from the payment to the page of a stranger.",
        "shop/payments/returning.py",
        "    return encrypted and origin in settings.origins_to_return_to\n",
        "    return encrypted\n",
        "tests/payments/test_return_url.py::test_a_buyer_is_sent_nowhere_else",
    ),
    breaks(
        "refund_taken_back_in_silence",
        "A refund that did not go back after all is taken for done.",
        EVENTS,
        "        refund.status = RefundStatus.TAKEN_BACK\n",
        "        pass\n",
        f"{OF_EVENTS}::test_a_refund_that_the_provider_takes_back_rings_and_is_no_balance",
    ),
)
