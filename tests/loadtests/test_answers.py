"""What a crowd reads in an answer: the order, and where in the ledger it was decided."""

import msgspec
import pytest

from loadtests.client.answers import Answer, Position, read_answer, read_position
from loadtests.client.http import Response
from shop.ledger.receipts import Signer, Witness

SIGNER = Signer(b"a secret of the tests")
RECEIPT = SIGNER.receipt(order_id="1", sale_id=7, epoch=2, seq=34, user_id="ada", quantity=1, reserved_ms=5)
WITNESS = SIGNER.sign(Witness(code="sold_out", sale_id=7, epoch=2, seq=33, at_ms=6))


@pytest.mark.parametrize(
    ("status", "members", "read"),
    [
        (202, {"id": "1", "receipt": RECEIPT}, Answer("reserved", "1", statement=RECEIPT)),
        (200, {"id": "1", "receipt": RECEIPT}, Answer("replayed", "1", statement=RECEIPT)),
        (409, {"code": "sold_out", "witness": WITNESS}, Answer("sold_out", statement=WITNESS)),
        (202, {"receipt": RECEIPT}, Answer("answer_unreadable")),
        (502, "an answer of something between", Answer("http_502")),
    ],
    ids=["reserved", "replayed", "refused", "without-an-order", "of-another-server"],
)
def test_an_answer_has_the_statement_that_was_signed_for_it(status: int, members: object, read: Answer) -> None:
    assert read_answer(Response(status, {}, msgspec.json.encode(members))) == read


def test_a_position_is_read_from_a_receipt_and_a_witness_and_from_nothing_else() -> None:
    assert (read_position(RECEIPT), read_position(WITNESS)) == (Position(2, 34), Position(2, 33))
    assert {read_position(each) for each in (None, "", "é", "bm90IEpTT04", "e30.e30", RECEIPT[5:])} == {None}
