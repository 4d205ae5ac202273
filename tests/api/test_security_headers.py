"""What a browser is told with every answer: no type is guessed, no page is framed, nothing comes from elsewhere."""

import base64
import hashlib
import re

import httpx
import pytest

from tests.harness import Shop, new_user_id, outcome
from tests.server.raw import exchange

PAGES = ["/docs", "/redoc", "/docs/oauth2-redirect"]


def directives(answer: httpx.Response) -> dict[str, list[str]]:
    """The content security policy of a page, by directive."""
    policy = answer.headers["content-security-policy"]
    return {words[0]: words[1:] for words in (part.split() for part in policy.split(";")) if words}


async def test_no_answer_lets_a_browser_guess_its_type(shop: Shop) -> None:
    """Of the lane, prepared or not, of routes, files and pages, of refusals, and of what is no request at all."""
    sale, user = await shop.open_sale(units=1), new_user_id()
    client = await shop.client()
    answers = [await shop.buy(sale, user, key="one"), await shop.buy(sale, user, key="one"), await shop.buy(sale)]
    assert [outcome(answer) for answer in answers] == ["reserved", "replayed", "sold_out"]
    paths = (*PAGES, "/static-offline-docs/swagger-ui-bundle.js", "/livez", "/v1/products", "/v1/me", "/nothing")
    answers += [await client.get(path) for path in paths]
    answers.append(await client.post("/v1/users", content=b"x" * 70_000))

    assert {answer.headers.get("x-content-type-options") for answer in answers} == {"nosniff"}
    refused = await exchange(shop, b"no request\r\n\r\n")
    assert refused.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_framed_nowhere_and_runs_only_its_own(shop: Shop, path: str) -> None:
    """Whoever lays the Authorize form under a page of their own would read the password."""
    page = await (await shop.client()).get(path)
    found = directives(page)

    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert found["frame-ancestors"] == found["base-uri"] == found["default-src"] == ["'none'"]
    assert "'unsafe-inline'" not in found["script-src"]
    assert "'unsafe-eval'" not in found["script-src"]
    for script in re.findall(r"<script(?![^>]*src=)[^>]*>(.+?)</script>", page.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in found["script-src"]
    assert not [source for sources in found.values() for source in sources if "://" in source or source == "*"]
