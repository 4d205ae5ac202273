"""The answer "sold out" as bytes: the commonest refusal, prepared once a second for each sale."""

import time

import msgspec

from shop.errors import SoldOut, problem
from shop.seckill.ledger import LoadedSale
from shop.seckill.receipts import Signer, Witness

REQUEST_ID_HERE = "{request_id}"
WITNESS_SECONDS = 1.0


class SoldOutAnswer:
    """The problem document of one sale, with a witness that is at most a second old."""

    def __init__(self, sale: LoadedSale, signer: Signer, path: str) -> None:
        self._sale = sale
        self._signer = signer
        self._path = path
        self._parts: tuple[bytes, bytes] = (b"", b"")
        self._made_at = float("-inf")
        self._seq = -1

    def body(self, seq: int, request_id: bytes) -> bytes:
        """The document for this request, decided at the ledger's `seq`."""
        now = time.monotonic()
        if seq != self._seq or now - self._made_at > WITNESS_SECONDS:
            self._make(seq)
            self._made_at = now
        before, after = self._parts
        return before + request_id + after

    def _make(self, seq: int) -> None:
        witness = Witness(SoldOut.code, self._sale.sale_id, self._sale.epoch, seq, int(time.time() * 1000))
        error = SoldOut(witness=self._signer.sign(witness))
        document = msgspec.json.encode(problem(error, instance=self._path, request_id=REQUEST_ID_HERE))
        before, _, after = document.partition(REQUEST_ID_HERE.encode())
        self._parts, self._seq = (before, after), seq
