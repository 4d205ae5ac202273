"""Only tokens that this shop signed, for this shop, and that have not run out, name anybody."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.auth import TOKEN_BYTES_MAX, Identity, Revocations, TokenVerifier, issue_token
from shop.errors import ShopError, Unauthorized
from shop.settings import Settings

HEADER = {"alg": "HS256", "typ": "JWT"}


def claims_of(settings: Settings, **changes: Any) -> dict[str, Any]:
    """Good claims with some changed; a change to None leaves the claim out."""
    now = int(time.time())
    good = {
        "sub": "ada",
        "role": "shopper",
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "iat": now,
        "exp": now + 60,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(settings: Settings, **changes: Any) -> str:
    return jwt.encode(claims_of(settings, **changes), settings.secret, algorithm="HS256")


def segment(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def handmade(settings: Settings, header: object, payload: object) -> str:
    """A token with a right signature over anything at all, which no library would write."""
    body = f"{segment(header)}.{segment(payload)}"
    return f"{body}.{segment(hmac.digest(settings.secret, body.encode(), hashlib.sha256))}"


def refused(settings: Settings, token: str | bytes) -> bool:
    with pytest.raises(Unauthorized):
        TokenVerifier(settings).verify(token)
    return True


def test_an_issued_token_names_its_user(settings: Settings) -> None:
    token = issue_token(settings, user_id="ada", role="admin")

    identity = TokenVerifier(settings).verify(token)

    assert (identity.user_id, identity.role) == ("ada", "admin")
    assert 0 < identity.expires_at - time.time() <= settings.token_lifetime_seconds


def test_text_and_bytes_are_the_same_token(settings: Settings) -> None:
    verifier = TokenVerifier(settings)
    token = issue_token(settings, user_id="ada", role="shopper")

    assert verifier.verify(token.encode()) is verifier.verify(token)


def test_an_own_token_does_not_need_the_library(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way accepts what `issue_token` writes; it takes a fifth of the time."""
    token = issue_token(settings, user_id="ada", role="shopper")
    verifier = TokenVerifier(settings)
    monkeypatch.setattr(jwt, "decode", None)

    assert verifier.verify(token).user_id == "ada"


def test_a_good_token_with_another_header_is_accepted_too(settings: Settings) -> None:
    token = jwt.encode(claims_of(settings), settings.secret, algorithm="HS256", headers={"kid": "1"})

    assert TokenVerifier(settings).verify(token).user_id == "ada"


def test_an_unsigned_token_is_refused(settings: Settings) -> None:
    names: list[object] = ["none", "None", "NONE", "nOnE", "", None, 0, ["HS256"], {"HS256": 1}]
    for name in names:
        body = f"{segment({'alg': name, 'typ': 'JWT'})}.{segment(claims_of(settings))}"
        assert refused(settings, body + ".")
        assert refused(settings, body + "." + segment(b"signature"))
        assert refused(settings, handmade(settings, {"alg": name, "typ": "JWT"}, claims_of(settings)))


@pytest.mark.filterwarnings("ignore:The HMAC key is")
def test_another_algorithm_is_refused_even_with_the_right_key(settings: Settings) -> None:
    for algorithm in ("HS384", "HS512"):
        assert refused(settings, jwt.encode(claims_of(settings), settings.secret, algorithm=algorithm))


def test_a_public_key_does_not_become_a_secret(settings: Settings) -> None:
    """The confusion of RS256 with HS256: signed by the forger's key, or with a public key as if it were the secret."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = f"{segment(HEADER)}.{segment(claims_of(settings))}"

    assert refused(settings, jwt.encode(claims_of(settings), private, algorithm="RS256"))
    assert refused(settings, f"{body}.{segment(hmac.digest(public, body.encode(), hashlib.sha256))}")
    assert refused(settings, handmade(settings, {"alg": "RS256", "typ": "JWT"}, claims_of(settings)))


def test_wrong_claims_are_refused(settings: Settings) -> None:
    wrong: list[dict[str, Any]] = [
        {"iss": "another"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": ["another"]},
        {"exp": int(time.time()) - 1},
        {"exp": None},
        {"exp": "never"},
        {"exp": True},
        {"role": None},
        {"role": 1},
        {"nbf": int(time.time()) + 60},
    ]
    for changes in wrong:
        assert refused(settings, signed(settings, **changes)), changes


def test_a_hostile_or_missing_subject_is_refused(settings: Settings) -> None:
    """What names a user goes into keys of Redis and rows of Postgres, so its form is checked at the door."""
    for subject in (None, "", "a" * 65, "a}b", "a:b", "a b", "a\r\nb", "ada\n", "ä", "\x00", "../..", "{x}", "*"):
        assert refused(settings, signed(settings, sub=subject)), subject
    for other in (1, True, ["ada"], {"ada": 1}):
        assert refused(settings, handmade(settings, HEADER, claims_of(settings, sub=other))), other


def test_another_key_is_refused(settings: Settings) -> None:
    for key in (b"x" * 64, settings.secret + b"x", settings.secret[:-1] + b"?", settings.secret[::-1]):
        assert refused(settings, jwt.encode(claims_of(settings), key, algorithm="HS256"))


def test_pieces_of_tokens_are_refused(settings: Settings) -> None:
    token = signed(settings)
    header, payload, signature = token.split(".")
    pieces = [
        *(token[:length] for length in range(0, len(token), 7)),
        token[:-1],
        token + "A",
        token + "=",
        token + "!",
        token[:-5] + "*" + token[-5:],
        token + ".",
        token + "\n",
        " " + token,
        f"{header}.{payload}",
        f"{header}.{payload}.",
        f"{payload}.{header}.{signature}",
        f"{header}..{signature}",
        "..",
        ".",
    ]
    for piece in pieces:
        assert refused(settings, piece), piece


def test_a_huge_token_is_refused_before_it_is_read(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = signed(settings, filler="x" * TOKEN_BYTES_MAX)
    monkeypatch.setattr(hmac, "digest", None)
    monkeypatch.setattr(jwt, "decode", None)

    assert refused(settings, huge)


def test_characters_beyond_ascii_are_refused(settings: Settings) -> None:
    token = signed(settings)
    for hostile in (token + "é", "🔑" * 10, "\udcff", token.replace(".", "․"), token.encode() + b"\xff"):
        assert refused(settings, hostile)


def test_what_is_not_json_is_refused_even_when_it_is_signed(settings: Settings) -> None:
    """Deep nesting makes JSON readers fail in their own way; the header is read before any signature is checked."""
    for hostile in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 1200, b'{"alg":' * 200):
        assert refused(settings, handmade(settings, hostile, claims_of(settings)))
        assert refused(settings, handmade(settings, HEADER, hostile))
        own_header = signed(settings).split(".")[0]
        body = f"{own_header}.{segment(hostile)}"
        assert refused(settings, f"{body}.{segment(hmac.digest(settings.secret, body.encode(), hashlib.sha256))}")


@given(data=st.data())
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_token_with_any_byte_changed_is_refused(settings: Settings, data: st.DataObject) -> None:
    token = bytearray(signed(settings).encode())
    place = data.draw(st.integers(0, len(token) - 2))  # the last character has bits that mean nothing
    token[place] ^= data.draw(st.integers(1, 127))

    assert refused(settings, bytes(token))


def test_a_token_that_has_been_accepted_still_runs_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = TokenVerifier(settings)
    token = signed(settings)
    identity = verifier.verify(token)
    monkeypatch.setattr(time, "time", lambda: float(identity.expires_at))

    with pytest.raises(Unauthorized):
        verifier.verify(token)


def test_accepted_tokens_are_remembered_within_a_bound(settings: Settings) -> None:
    """The oldest is forgotten, and is simply verified again when it comes back."""
    verifier = TokenVerifier(settings.model_copy(update={"token_cache_max": 3}))
    tokens = [issue_token(settings, user_id=f"user-{n}", role="shopper") for n in range(5)]
    first = verifier.verify(tokens[0])
    for token in tokens[1:]:
        verifier.verify(token)

    assert len(verifier._accepted) == 3
    assert verifier.verify(tokens[0]) == first
    assert verifier.verify(tokens[0]) is not first


def test_refused_tokens_are_not_remembered(settings: Settings) -> None:
    verifier = TokenVerifier(settings)
    for n in range(10):
        with pytest.raises(Unauthorized):
            verifier.verify(f"hostile-{n}")

    assert not verifier._accepted


def test_a_token_carries_its_generation(settings: Settings) -> None:
    """One that was issued before there were generations is of the first."""
    verifier = TokenVerifier(settings)
    token = issue_token(settings, user_id="ada", role="shopper", generation=7)

    assert verifier.verify(token).generation == 7
    assert verifier.verify(signed(settings)).generation == 0
    assert verifier.verify(jwt.encode(claims_of(settings, generation=7), settings.secret)).generation == 7


def said(revocations: Revocations, user_id: str, generation: int = 0) -> str:
    """What is answered to a token: `good`, or the refusal's code."""
    try:
        revocations.check(Identity(user_id, "shopper", 0, generation))
    except ShopError as error:
        return error.code
    return "good"


def test_what_was_revoked_is_replaced_as_a_whole() -> None:
    revocations = Revocations()
    revocations.replace({"ada", "bob"}, {"cy": 5})
    assert [said(revocations, name) for name in ("ada", "bob", "cy", "dan")] == [
        "user_blocked", "user_blocked", "unauthorized", "good",
    ]  # fmt: skip

    revocations.replace(["bob"], {})

    assert [said(revocations, name) for name in ("ada", "bob", "cy")] == ["good", "user_blocked", "good"]


def test_only_the_newest_generation_known_and_later_ones_are_good() -> None:
    """A token that was issued right after a change is good in a process that has not learned of the change."""
    revocations = Revocations()
    revocations.begin({"ada": 5})
    revocations.begin({"ada": 3})

    assert [said(revocations, "ada", generation) for generation in (0, 4, 5, 6)] == [
        "unauthorized", "unauthorized", "good", "good",
    ]  # fmt: skip


def test_a_blocked_user_who_signs_out_stays_blocked() -> None:
    revocations = Revocations()
    revocations.replace({"ada"}, {})
    revocations.begin({"ada": 5})

    assert said(revocations, "ada", 6) == "user_blocked"


@pytest.mark.parametrize("generation", [-1, 2**63, "1", 1.5, True, None, [1]])
def test_a_token_whose_generation_is_no_number_is_refused(settings: Settings, generation: object) -> None:
    claims = claims_of(settings) | {"generation": generation}

    assert refused(settings, handmade(settings, HEADER, claims))
    assert refused(settings, handmade(settings, {**HEADER, "kid": "1"}, claims))
