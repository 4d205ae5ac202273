"""What is signed by hand for speed is what the standard library would sign."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.signatures import HmacSha256, KeyedBlake2b, base64url, from_base64url


@given(key=st.binary(max_size=200), message=st.binary(max_size=300))
def test_an_hmac_is_that_of_the_standard_library(key: bytes, message: bytes) -> None:
    """Keys longer than a block of the hash too."""
    signer = HmacSha256(key)

    assert [signer.digest(message) for _ in range(2)] == [hmac.digest(key, message, "sha256")] * 2


@given(key=st.binary(min_size=1, max_size=64), message=st.binary(max_size=300))
def test_a_keyed_hash_is_that_of_the_standard_library(key: bytes, message: bytes) -> None:
    """One message leaves no trace in the next one."""
    keyed = KeyedBlake2b(key, digest_bytes=12)
    expected = hashlib.blake2b(message, key=key, digest_size=12).digest()

    assert [keyed.digest(message) for _ in range(2)] == [expected] * 2


@given(st.binary(max_size=100))
def test_base64url_is_that_of_the_standard_library_without_padding(data: bytes) -> None:
    """And it can be read again."""
    assert base64url(data) == base64.urlsafe_b64encode(data).rstrip(b"=")
    assert from_base64url(base64url(data)) == data


def test_what_cannot_be_base64url_is_refused() -> None:
    """One character is not enough for a byte."""
    with pytest.raises(ValueError, match="base64"):
        from_base64url(b"QUJDR")
