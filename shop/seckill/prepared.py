"""The refusal that a crowd is told most often, as bytes into which only the request's own parts are filled."""

import time

from shop.errors import SoldOut
from shop.ledger.client import LoadedSale
from shop.ledger.receipts import Signer, Witness
from shop.server.answers import PreparedProblem

WITNESS_SECONDS = 1.0


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
