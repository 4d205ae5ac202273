"""I7 as the demo computes it: an id is promised once, and a purchase that is sent again finds its order."""

from uuid import uuid4

from loadtests.client.answers import RESERVED
from loadtests.crowd.record import Attempt
from loadtests.judge.promises import are_unique, promises
from loadtests.judge.retries import Retries, retry
from tests.loadtests.endpoint import Endpoint, Script, answer, endpoint, in_turn, refusal, replayed

FIRST, SECOND = str(uuid4()), str(uuid4())


def promised(user: str, key: str | None, order_id: str) -> Attempt:
    return Attempt(0, user, key, 202, RESERVED, order_id, 0.0, 0.0)


def order(order_id: str) -> bytes:
    return replayed(answer(202, object="order", id=order_id, status="paid"))


async def retried(script: Script, *attempts: Attempt) -> tuple[Retries, Endpoint]:
    async with endpoint(script) as shop:
        return await retry(shop.base_url, 1, attempts, {"ada": "token-of-ada", "bob": "token-of-bob"}), shop


async def test_a_retry_that_finds_its_order_holds_however_often_it_is_told_to_wait() -> None:
    """The same sale, user and key, as the first time; a purchase without a key is not asked for again."""
    script = in_turn(refusal(503, "overloaded"), order(FIRST))

    found, shop = await retried(script, promised("ada", "k", FIRST), promised("bob", None, SECOND))

    assert (found, found.hold) == (Retries(retried=1, found=1, unique=True), True)
    assert {request.click for request in shop.requests} == {("token-of-ada", "k")}


async def test_a_retry_that_gets_another_order_a_new_one_or_none_does_not_hold() -> None:
    for answered in (order(SECOND), answer(202, object="order", id=FIRST), refusal(409, "sold_out")):
        found, _ = await retried(in_turn(answered), promised("ada", "k", FIRST))
        assert (found.retried, found.found, found.hold) == (1, 0, False)


def test_an_id_is_promised_to_one_click_and_a_click_has_one_id() -> None:
    twice, shared = (promised("ada", "k", FIRST), promised("ada", "k", SECOND)), (promised("bob", "k", FIRST),)

    assert are_unique(promises([twice[0], twice[0]]))
    assert not are_unique(promises(twice))
    assert not are_unique(promises([twice[0], *shared]))
