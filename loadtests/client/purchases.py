"""The request of a purchase, the same for every crowd."""

from loadtests.client.http import Address


def purchase_path(sale_id: int) -> str:
    """Where a sale is bought."""
    return f"/v1/seckill/sales/{sale_id}/orders"


def purchase_request(address: Address, path: str, *, token: str, key: str | None, quantity: int = 1) -> bytes:
    """The bytes of a purchase by who has this token; without a key two clicks are two purchases."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return address.request("POST", path, headers=headers, body=b'{"quantity": %d}' % quantity)
