"""What every answer of the API must look like, whatever it says."""

from typing import Any

import httpx

from shop.ledger.receipts import Receipt, Signer, Witness
from shop.problem_json import MEDIA_TYPE, RETRYABLE_STATUSES, refusals
from tests.harness import Shop


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refusal, after everything that each of them promises was checked (RFC 9457)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    document: dict[str, Any] = answer.json()
    assert (document["code"], document["status"]) == (code, status), document
    assert document["type"].endswith(f"/{code}")
    assert document["title"]
    assert refusals()[code].status == status
    assert document["instance"] == answer.request.url.path
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["detail"]
    assert document["retryable"] is (status in RETRYABLE_STATUSES)
    if status in RETRYABLE_STATUSES:
        assert int(answer.headers["retry-after"]) >= 1
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    return document


def witness_of(shop: Shop, document: dict[str, Any]) -> Witness:
    """The witness of a refused purchase; its signature must be the shop's."""
    witness = Signer(shop.settings.secret).read(Witness, document["witness"])
    assert witness.code == document["code"]
    return witness


def receipt_of(shop: Shop, answer: httpx.Response) -> Receipt:
    """The receipt of an accepted purchase; its signature must be the shop's, and it must say what the body says."""
    body = answer.json()
    receipt = Signer(shop.settings.secret).read(Receipt, body["receipt"])
    assert (receipt.order_id, receipt.sale_id, receipt.quantity) == (body["id"], body["sale_id"], body["quantity"])
    return receipt
