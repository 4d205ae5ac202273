"""Refusals as bytes: what a crowd is told most often is prepared, and only the request's own parts are filled in."""

import time

import msgspec

from shop.errors import ShopError, SoldOut
from shop.ledger.client import LoadedSale
from shop.ledger.receipts import Signer, Witness
from shop.problem_json import problem

INSTANCE_HERE = "{instance}"
REQUEST_ID_HERE = "{request_id}"
WITNESS_SECONDS = 1.0


class PreparedProblem:
    """The problem document of a refusal, for any purchase."""

    def __init__(self, error: ShopError) -> None:
        document = msgspec.json.encode(problem(error, instance=INSTANCE_HERE, request_id=REQUEST_ID_HERE))
        self._start, _, rest = document.partition(INSTANCE_HERE.encode())
        self._middle, _, self._end = rest.partition(REQUEST_ID_HERE.encode())

    def body(self, path: str, request_id: bytes) -> bytes:
        """The document for this request; both values are plain ASCII without quotes."""
        return b"".join((self._start, path.encode(), self._middle, request_id, self._end))


class SoldOutAnswer:
    """ "Sold out" for one sale, with a witness that is at most a second old."""

    def __init__(self, sale: LoadedSale, signer: Signer) -> None:
        self._sale = sale
        self._signer = signer
        self._problem = PreparedProblem(SoldOut())
        self._made_at = float("-inf")
        self._seq = -1

    def body(self, seq: int, path: str, request_id: bytes) -> bytes:
        """The document for this request, decided at the ledger's `seq`."""
        now = time.monotonic()
        if seq != self._seq or now - self._made_at > WITNESS_SECONDS:
            self._seq, self._made_at = seq, now
            witness = Witness(SoldOut.code, self._sale.sale_id, self._sale.epoch, seq, int(time.time() * 1000))
            self._problem = PreparedProblem(SoldOut(witness=self._signer.sign(witness)))
        return self._problem.body(path, request_id)
