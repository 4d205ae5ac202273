"""The faults that the sandbox is told to have."""

from typing import Any

import httpx
import pytest

from shop.sandbox.behaviour import Behaviour, Dice
from tests.payments.sandbox.running import Sandbox, intent_wish, running_receiver, running_sandbox


async def test_a_refused_request_does_nothing(sandbox: Sandbox) -> None:
    await sandbox.behave(refuse_share=1)

    answer = await sandbox.ask("POST", "/intents", key="k", body=intent_wish())

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert (await sandbox.summary())["events"] == 0


async def test_a_request_whose_reply_is_dropped_is_done(sandbox: Sandbox) -> None:
    await sandbox.behave(drop_reply_share=1)

    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        await sandbox.ask("POST", "/intents", key="k", body=intent_wish())

    assert (await sandbox.summary())["intents"]["open"] == 1


async def test_the_repeat_after_a_dropped_reply_finds_the_same_intent(sandbox: Sandbox) -> None:
    await sandbox.behave(drop_reply_share=1)
    with pytest.raises(httpx.TransportError):
        await sandbox.ask("POST", "/intents", key="k", body=intent_wish())
    await sandbox.behave()

    answer = await sandbox.ask("POST", "/intents", key="k", body=intent_wish())

    assert answer.status_code == 200
    assert answer.json()["id"] == (await sandbox.events())["data"][0]["data"]["id"]


async def test_a_stalled_request_is_done_before_its_answer_comes(sandbox: Sandbox) -> None:
    await sandbox.behave(stall_seconds=1)

    with pytest.raises(httpx.ReadTimeout):
        await sandbox.client.post(
            "/v1/intents",
            json=intent_wish(),
            headers={"Idempotency-Key": "k", "Authorization": f"Bearer {sandbox.api_key}"},
            timeout=0.2,
        )

    assert (await sandbox.summary())["intents"]["open"] == 1


async def test_a_payment_may_be_declined_although_the_shopper_pays(sandbox: Sandbox) -> None:
    intent = await sandbox.create()
    await sandbox.behave(decline_share=1)

    answer = await sandbox.attempt(intent["id"], "pay")

    assert (answer.status_code, answer.json()["code"]) == (402, "payment_declined")
    assert (await sandbox.events())["data"][-1]["type"] == "payment.failed"


async def test_the_faults_of_the_network_do_not_befall_a_shopper(sandbox: Sandbox) -> None:
    """They are those between a shop and its provider."""
    intent = await sandbox.create()
    await sandbox.behave(refuse_share=1, drop_reply_share=1, stall_seconds=60)

    assert (await sandbox.client.get(f"/pay/{intent['id']}")).status_code == 200
    assert (await sandbox.attempt(intent["id"], "pay")).status_code == 200


async def test_a_share_is_about_that_share_of_them() -> None:
    dice = Dice(Behaviour(lose_share=0.25, seed=7))

    assert 200 < sum(dice.decides("lose_share") for _ in range(1_000)) < 300


async def test_the_same_seed_throws_the_same_dice_whatever_else_is_thrown() -> None:
    behaviour = Behaviour(lose_share=0.5, decline_share=0.5, seed=7)
    alone, among_others = Dice(behaviour), Dice(behaviour)

    first = [alone.decides("lose_share") for _ in range(50)]
    second = [(among_others.decides("decline_share"), among_others.decides("lose_share"))[1] for _ in range(50)]

    assert first == second


async def test_what_is_left_out_is_off(sandbox: Sandbox) -> None:
    await sandbox.behave(lose_share=1, seed=3)
    await sandbox.behave(refuse_share=0.5)

    answer = await sandbox.client.get("/sandbox/behaviour")

    assert answer.json() == Behaviour(refuse_share=0.5).model_dump()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lose_share": 1.1},
        {"lose_share": -0.1},
        {"lose_share": "many"},
        {"stall_seconds": 61},
        {"delay_seconds_min": 2, "delay_seconds_max": 1},
        {"explode_share": 1},
    ],
    ids=str,
)
async def test_a_behaviour_that_breaks_a_rule_is_refused(wrong: dict[str, Any], sandbox: Sandbox) -> None:
    await sandbox.behave(decline_share=0.5)

    answer = await sandbox.client.put("/sandbox/behaviour", json=wrong)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert (await sandbox.client.get("/sandbox/behaviour")).json()["decline_share"] == 0.5


async def test_webhooks_can_be_sent_elsewhere_while_it_runs(sandbox: Sandbox) -> None:
    async with running_receiver() as receiver:
        answer = await sandbox.client.put("/sandbox/webhook", json={"url": receiver.url})
        await sandbox.create()

        await receiver.until_told(1)

    assert answer.json() == {"url": receiver.url}


async def test_a_sandbox_may_be_told_its_faults_at_the_start() -> None:
    async with running_sandbox(refuse_share=1.0) as sandbox:
        assert (await sandbox.ask("GET", "/events")).status_code == 503
