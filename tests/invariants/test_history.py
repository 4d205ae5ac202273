"""The judge of histories: each of its rules turns red for what breaks it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from loadtests.client.answers import OVER_LIMIT, REPLAYED, RESERVED, SOLD_OUT
from loadtests.judge.history import SENTENCES_MAX
from loadtests.judge.operations import UNKNOWN, Entry, Operation
from tests.invariants.histories import ROWS, RULES, TOLD, UNITS, judge, row, told

NEXT_EPOCH = replace(RULES, openings={1: UNITS, 2: 3})

# The same, and two more units are sold.
ALL_SOLD = [*ROWS, row(4, "dan", quantity=2, balance=0)]
TOLD_ALL = [*TOLD, told(RESERVED, "dan", 4, 6, 7, quantity=2)]


def test_purchases_in_the_order_of_their_numbers_are_right() -> None:
    assert judge(TOLD_ALL, ALL_SOLD) == []


def test_a_purchase_that_was_answered_before_another_was_sent_has_the_smaller_number() -> None:
    """Rows and answers agree with each other, and not with the clock."""
    late_first = [replace(TOLD[0], seq=2), replace(TOLD[1], seq=1), TOLD[2]]
    rows = [row(1, "bob", balance=4), row(2, "ann", balance=3), ROWS[2]]

    assert judge(late_first, rows) == [
        "sale 7: the answer reserved at 1.1 to bob for order order-bob was sent after"
        " the answer reserved at 1.2 to ann for order order-ann had come"
    ]


def test_purchases_at_the_same_time_may_have_their_numbers_in_any_order() -> None:
    late_first = [replace(TOLD[0], seq=2), replace(TOLD[1], seq=1, sent_at=1), TOLD[2]]
    rows = [row(1, "bob", balance=4), row(2, "ann", balance=3), ROWS[2]]

    assert judge(late_first, rows) == []


@pytest.mark.parametrize("code", ["sale_paused", OVER_LIMIT, "not_enough_units"])
def test_a_refusal_is_not_older_than_the_answers_before_it(code: str) -> None:
    refusal = told(code, "dan", 3, 6, 7, quantity=3)

    assert judge([*TOLD, refusal], ROWS) == []
    [sentence] = [found for found in judge([*TOLD, replace(refusal, seq=2)], ROWS) if "was sent after" in found]
    assert "reserved at 1.3 to cid" in sentence


def test_sold_out_may_be_as_old_as_a_latch_remembers_and_no_older() -> None:
    """Two units came back at 7.0; the latch of another process was told so with its next poll."""
    rows = [*ALL_SOLD, row(5, "dan", kind="released", quantity=2, balance=2), row(6, "eve", balance=1)]
    operations = [*TOLD_ALL, told(RESERVED, "eve", 6, 8.0, 8.1)]

    assert judge([*operations, told(SOLD_OUT, "fay", 4, 9.0, 9.2)], rows) == []
    [sentence] = judge([*operations, told(SOLD_OUT, "fay", 4, 9.2, 9.3)], rows)
    assert "sold_out at 1.4 to fay was sent after the answer reserved at 1.6 to eve" in sentence


def test_a_reservation_after_a_refusal_lies_above_its_witness() -> None:
    paused = told("sale_paused", "dan", 3, 3.1, 3.2)

    assert judge([*TOLD[:2], replace(paused, seq=2), TOLD[2]], ROWS) == []
    [sentence] = judge([*TOLD[:2], paused, TOLD[2]], ROWS)
    assert "reserved at 1.3 to cid for order order-cid was sent after the answer sale_paused at 1.3" in sentence


def test_what_is_sent_after_a_repeat_lies_above_the_order_that_it_found() -> None:
    """A repeat tells an old number, so it may come late, but its order must have been made before it came."""
    assert judge([*TOLD, told(REPLAYED, "ann", 1, 8, 9)], ROWS) == []
    [sentence] = judge([*TOLD, told(REPLAYED, "cid", 3, 1, 2, order="order-cid")][::-1], ROWS)[:1]
    assert "was sent after the answer replayed at 1.3 to cid" in sentence


@pytest.mark.parametrize("code", [RESERVED, REPLAYED])
def test_every_promise_has_its_row(code: str) -> None:
    [sentence] = judge([*TOLD, told(code, "dan", 4, 6, 7)], ROWS)

    assert sentence == f"sale 7: the answer {code} at 1.4 to dan for order order-dan has no row"


@pytest.mark.parametrize(
    "wrong", [row(3, "dan", order="order-cid", balance=2), row(3, "cid", quantity=2, balance=1)], ids=["user", "units"]
)
def test_a_row_is_for_the_user_and_the_units_that_were_promised(wrong: Entry) -> None:
    [sentence] = judge(TOLD, [*ROWS[:2], wrong])

    assert f"has a row for {wrong.quantity} units of user {wrong.user_id}" in sentence


@pytest.mark.parametrize("code", [RESERVED, REPLAYED])
def test_a_row_has_the_number_that_was_promised(code: str) -> None:
    answer = told(code, "cid", 2, 2, 5)

    assert "has its row at 1.3" in judge([TOLD[0], replace(TOLD[1], answered_at=5), answer], ROWS)[-1]


def test_swapped_numbers_disagree_with_the_rows_even_if_nobody_waited() -> None:
    together = [replace(operation, sent_at=0, answered_at=9) for operation in TOLD]
    together[0], together[1] = replace(together[0], seq=2), replace(together[1], seq=1)

    assert len([sentence for sentence in judge(together, ROWS) if "has its row at" in sentence]) == 2


def test_an_order_is_reserved_once() -> None:
    """Whoever asks again is told that it is a repeat, and where the order was made."""
    [sentence] = judge([*TOLD, told(RESERVED, "ann", 1, 0, 1)], ROWS)

    assert "the order was reserved twice" in sentence


def test_a_number_is_given_to_one_order() -> None:
    sentences = judge([*TOLD, told(RESERVED, "dan", 3, 4, 5)], ROWS)

    assert "dan for order order-dan has the number of order order-cid" in sentences[0]


@pytest.mark.parametrize(
    ("code", "quantity", "right", "wrong"),
    [(SOLD_OUT, 1, 4, 3), ("not_enough_units", 3, 3, 4), ("not_enough_units", 5, 1, 0)],
)
def test_a_refusal_for_want_of_units_is_true_at_its_place(code: str, quantity: int, right: int, wrong: int) -> None:
    def refused(seq: int) -> list[Operation]:
        return [*(replace(each, sent_at=0) for each in TOLD_ALL), told(code, "eve", seq, 0, 1, quantity=quantity)]

    assert judge(refused(right), ALL_SOLD) == []
    [sentence] = judge(refused(wrong), ALL_SOLD)
    assert f"{code} at 1.{wrong} to eve was given with" in sentence


@pytest.mark.parametrize(("seq", "quantity", "is_right"), [(4, 1, True), (3, 2, False), (3, 3, True), (5, 2, False)])
def test_over_limit_is_true_at_its_place(seq: int, quantity: int, is_right: bool) -> None:
    """Dan has two units from 4 to 5, where they go back."""
    rows = [*ALL_SOLD, row(5, "dan", kind="released", quantity=2, balance=2)]
    operations = [
        *(replace(each, sent_at=0) for each in TOLD_ALL),
        told(OVER_LIMIT, "dan", seq, 0, 9, quantity=quantity),
    ]

    assert bool(judge(operations, rows)) is not is_right


def test_over_limit_is_also_true_for_whoever_has_made_all_their_orders() -> None:
    rows = []
    for number in range(1, 4):
        rows.append(row(2 * number - 1, "ann", order=f"order-{number}", balance=UNITS - 1))
        rows.append(row(2 * number, "ann", order=f"order-{number}", kind="released", balance=UNITS))
    operations = [told(RESERVED, "ann", 2 * number - 1, 0, 9, order=f"order-{number}") for number in range(1, 4)]

    assert judge([*operations, told(OVER_LIMIT, "ann", 6, 0, 9)], rows) == []
    assert "with 0 units in 2 orders" in judge([*operations, told(OVER_LIMIT, "ann", 4, 0, 9)], rows)[0]


def test_a_witness_is_not_beyond_the_last_row() -> None:
    assert "is beyond the last row" in judge([*TOLD, told("sale_paused", "dan", 4, 6, 7)], ROWS)[0]


def test_a_row_that_nobody_was_told_of_belongs_to_a_purchase_of_unknown_outcome() -> None:
    assert judge([*TOLD[:2], told(UNKNOWN, "cid", None, 4, 5)], ROWS) == []
    assert judge([*TOLD[:2], told(UNKNOWN, "cid", None, 4, 5, order="order-cid")], ROWS) == []
    assert judge(TOLD[:2], ROWS, known=frozenset({"order-cid"})) == []
    [sentence] = judge(TOLD[:2], ROWS)
    assert sentence == "sale 7: order order-cid of user cid at 1.3 was told to nobody and asked for by nobody"


@pytest.mark.parametrize(
    "other",
    [
        told(UNKNOWN, "dan", None, 4, 5),
        told(UNKNOWN, "cid", None, 4, 5, quantity=2),
        told(UNKNOWN, "cid", None, 4, 5, order="another"),
        told("rate_limited", "cid", None, 4, 5),
    ],
    ids=["another user", "another quantity", "another order", "a known outcome"],
)
def test_a_purchase_that_did_not_ask_for_a_row_does_not_explain_it(other: Operation) -> None:
    assert "asked for by nobody" in judge([*TOLD[:2], other], ROWS)[0]


def test_a_purchase_explains_one_row_and_none_from_before_it_was_sent() -> None:
    rows = [*ROWS, row(4, "cid", order="another", balance=1)]
    unknown = [told(UNKNOWN, "cid", None, 4, 5), told(UNKNOWN, "cid", None, 5, 6)]

    assert judge([*TOLD[:2], *unknown], rows) == []
    assert len(judge([*TOLD[:2], unknown[0]], rows)) == 1
    late = [told(RESERVED, "dan", 4, 6, 7), told(UNKNOWN, "cid", None, 8, 9)]
    assert len(judge([*TOLD[:2], *late], [*ROWS, row(4, "dan", balance=1)])) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ROWS[0], ROWS[2]], "row 1.3 follows row 1"),
        ([ROWS[0], ROWS[0]], "row 1.1 follows row 1"),
        ([ROWS[0], row(2, "bob", balance=4)], "row 1.2 has balance 4 after 4 and -1"),
        ([row(1, "ann", quantity=6, balance=-1)], "row 1.1 has balance -1"),
        ([row(1, "ann", quantity=3, balance=2)], "user ann has 3 units in 1 orders at 1.1"),
        ([*ROWS, row(4, "ann", order="order-ann", balance=1)], "order order-ann was made at 1.1 and again at 1.4"),
        ([ROWS[0], row(2, "bob", kind="released", balance=5)], "releases order order-bob, which was not made like"),
        ([ROWS[0], row(2, "ann", kind="released", quantity=2, balance=6)], "releases order order-ann"),
        (
            [ROWS[0], row(2, "ann", kind="released", balance=5), row(3, "ann", kind="released", balance=6)],
            "order order-ann is released again at 1.3",
        ),
        ([row(1, "ann", balance=4, epoch=3)], "row 3.1 is of an epoch that never began"),
    ],
)
def test_the_rows_are_a_ledger(rows: Sequence[Entry], said: str) -> None:
    users = {each.user_id or "": each for each in rows}
    operations = [told(UNKNOWN, user, None, 0, 1, quantity=each.quantity) for user, each in users.items()]

    assert said in judge(operations, rows)[0]


# Cid's row was lost in the first epoch, and the order was honoured in the second.
AFTER_LOSS = [*ROWS[:2], row(1, "cid", kind="honoured", delta=0, balance=3, epoch=2), row(2, "dan", balance=2, epoch=2)]


def test_an_order_whose_number_was_lost_has_its_row_in_a_later_epoch() -> None:
    """What it was told as its position is judged no more; the next epoch lies above the first."""
    operations = [*TOLD, told(RESERVED, "dan", 2, 6, 7, epoch=2), told(REPLAYED, "cid", 1, 8, 9, epoch=2)]

    assert judge(operations, AFTER_LOSS, NEXT_EPOCH) == []


def test_a_promise_that_no_epoch_has_kept_is_lost() -> None:
    assert "cid for order order-cid has no row" in judge(TOLD, ROWS[:2], NEXT_EPOCH)[0]


def test_a_repeat_in_a_later_epoch_tells_the_number_of_the_first() -> None:
    """A new ledger begins with the orders that are recorded, under the numbers that they have."""
    operations = [*TOLD, told(RESERVED, "dan", 2, 6, 7, epoch=2)]

    assert judge([*operations, told(REPLAYED, "ann", 1, 8, 9, epoch=2)], AFTER_LOSS, NEXT_EPOCH) == []
    assert judge([*operations, told(REPLAYED, "ann", 2, 8, 9, epoch=2)], AFTER_LOSS, NEXT_EPOCH) != []


def test_nothing_is_decided_in_an_epoch_after_the_next_one_has_answered() -> None:
    dan = told(RESERVED, "dan", 2, 6, 7, epoch=2)

    assert judge([*TOLD, dan, told("sale_paused", "eve", 2, 6, 8)], AFTER_LOSS, NEXT_EPOCH) == []
    [sentence] = judge([*TOLD, dan, told("sale_paused", "eve", 2, 7.1, 8)], AFTER_LOSS, NEXT_EPOCH)
    assert "sale_paused at 1.2 to eve was sent after the answer reserved at 2.2 to dan" in sentence


def test_a_witness_of_a_lost_number_is_not_judged() -> None:
    operations = [*TOLD, told(RESERVED, "dan", 2, 6, 7, epoch=2)]

    assert judge([*operations, told(SOLD_OUT, "eve", 4, 5, 6)], AFTER_LOSS, NEXT_EPOCH) == []


def test_a_change_that_is_lost_and_made_anew_binds_no_refusal_after_the_loss() -> None:
    """Nobody was promised anything by it; an order binds all the same, and so does what was told after the loss."""
    rows = [*ROWS, row(4, None, kind="pause", balance=2), row(5, None, kind="units", delta=1, balance=3)]
    before, after = told("sale_paused", "dan", 5, 6, 7), told("sale_paused", "eve", 4, 8, 9)

    assert len(judge([*TOLD, before, after], rows)) == 1
    assert judge([*TOLD, before, after], rows, losses=[7.5]) == []
    for loss in (5.5, 8.5):
        assert len(judge([*TOLD, before, after], rows, losses=[loss])) == 1
    assert len(judge([*TOLD, told("sale_paused", "eve", 2, 8, 9)], rows, losses=[7.5])) == 1
    again = [told("sale_paused", "fay", 5, 10, 11), told("sale_paused", "gus", 4, 12, 13)]
    assert len(judge([*TOLD, before, after, *again], rows, losses=[7.5])) == 1


def test_limits_go_on_in_a_later_epoch() -> None:
    """Ann has a unit from the first epoch."""
    rows = [*ROWS, row(1, "ann", order="second", balance=2, epoch=2), row(2, "ann", order="third", balance=1, epoch=2)]
    operations = [
        *TOLD,
        *(told(RESERVED, "ann", n, 6, 7, order=order, epoch=2) for n, order in ((1, "second"), (2, "third"))),
    ]

    [sentence] = judge(operations, rows, NEXT_EPOCH)
    assert "user ann has 3 units in 3 orders at 2.2" in sentence


@pytest.mark.parametrize(("given_back", "is_right"), [({"order-ann": 2}, True), ({}, False)])
def test_units_that_a_recovery_gave_back_count_no_more(given_back: dict[str, int], *, is_right: bool) -> None:
    """It releases what closed orders owe when it begins an epoch, without an event; then their user may buy again."""
    rows = [*ROWS, row(1, "ann", order="again", quantity=2, balance=1, epoch=2)]
    operations = [*TOLD, told(RESERVED, "ann", 1, 6, 7, order="again", quantity=2, epoch=2)]

    assert (judge(operations, rows, replace(NEXT_EPOCH, given_back=given_back)) == []) == is_right


def test_an_order_gives_its_units_back_to_one_epoch_only() -> None:
    rows = [*ROWS, row(4, "ann", kind="released", balance=3), row(1, "dan", balance=2, epoch=2)]
    operations = [*TOLD, told(RESERVED, "dan", 1, 6, 7, epoch=2)]

    [sentence] = judge(operations, rows, replace(NEXT_EPOCH, given_back={"order-ann": 2}))
    assert "order order-ann gave its units back before epoch 2, which it did not hold" in sentence


def test_a_quarantined_row_is_the_one_exception_of_the_promise() -> None:
    rows = [*ROWS[:2], replace(row(3, None, order="order-cid", quantity=0, delta=-1, balance=2), quarantined=True)]

    assert judge(TOLD, rows) == []


def test_no_more_is_said_than_somebody_reads() -> None:
    found = judge([told(RESERVED, f"user{number}", number + 1, 0, 1) for number in range(SENTENCES_MAX + 5)], [])

    assert (len(found), found[-1]) == (SENTENCES_MAX + 1, "and 5 more")
