"""The judge of histories on many purchases: right ones are right, however late, and swapped ones are found."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.client.answers import OVER_LIMIT, REPLAYED, RESERVED, SOLD_OUT, Answer, read_answer
from loadtests.client.http import Address, HttpError, Pool
from loadtests.crowd.record import Attempt
from loadtests.judge.history import check_history
from loadtests.judge.operations import Entry, Operation, operation_of
from loadtests.judge.rows import entries_of, rules_of
from shop.ledger.receipts import Receipt, Signer, Witness
from shop.sales.models import Sale
from tests.harness import DEADLINE_SECONDS, Shop, new_user_id
from tests.invariants.histories import RULES, UNITS, judge, row, told

PURCHASES = 2_000
CANCEL_TRIES_MAX = 50
CANCELS_AT_ONCE = 4


@dataclass
class Simulation:
    """A ledger that answers one purchase after another, each at a moment between its beginning and its end."""

    draw: random.Random
    operations: list[Operation] = field(default_factory=list)
    rows: list[Entry] = field(default_factory=list)

    def run(self, purchases: int) -> "Simulation":
        left, held = UNITS, dict[str, int]()
        for number in range(purchases):
            user, quantity = f"user{self.draw.randrange(6)}", self.draw.randint(1, 2)
            seq, begun = len(self.rows), float(number)
            span = number - self.draw.random() * 4, number + self.draw.random() * 4
            code = RESERVED
            if held.get(user, 0) + quantity > RULES.units_per_user:
                code = OVER_LIMIT
            elif left < quantity:
                code = "not_enough_units" if left else SOLD_OUT
            if code == RESERVED:
                left, held[user] = left - quantity, held.get(user, 0) + quantity
                self.rows.append(row(seq + 1, user, order=f"order{number}", quantity=quantity, balance=left))
                seq += 1
            order = f"order{number}" if code == RESERVED else None
            assert span[0] <= begun <= span[1]
            self.operations.append(told(code, user, seq, *span, order=order, quantity=quantity))
            if held.get(user) and self.draw.random() < 0.3:
                left = self._release(user, held, left)
        return self

    def _release(self, user: str, held: dict[str, int], left: int) -> int:
        released = {each.order_id for each in self.rows if each.kind == "released"}
        for each in list(self.rows):
            if each.user_id == user and each.order_id not in released:
                left, held[user] = left + each.quantity, held[user] - each.quantity
                self.rows.append(
                    row(
                        len(self.rows) + 1,
                        user,
                        kind="released",
                        order=each.order_id,
                        quantity=each.quantity,
                        balance=left,
                    )
                )
                break
        return left


FREE = replace(RULES, orders_per_user=1_000)


def pairs_out_of_order(operations: Sequence[Operation]) -> int:
    """How many answers contradict one before them, by the definition: each against each."""

    def contradicts(before: Operation, after: Operation) -> bool:
        slack = 1.0 if after.code == SOLD_OUT else 0.0
        if before.answered_at >= after.sent_at - slack:
            return False
        told_before, told_after = before.seq or 0, after.seq or 0
        return told_after <= told_before if after.code == RESERVED else told_after < told_before

    return sum(any(contradicts(before, after) for before in operations) for after in operations)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_what_a_ledger_answered_is_right_whenever_the_answers_came(draw: random.Random, purchases: int) -> None:
    simulation = Simulation(draw).run(purchases)

    assert judge(simulation.operations, simulation.rows, FREE) == []


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 60))
def test_the_sweep_finds_what_comparing_each_with_each_finds(draw: random.Random, purchases: int) -> None:
    """With the moments of the answers shuffled, so that many contradict each other."""
    simulation = Simulation(draw).run(purchases)
    moments = [(each.sent_at, each.answered_at) for each in simulation.operations]
    draw.shuffle(moments)
    operations = [
        replace(each, sent_at=sent_at, answered_at=answered_at)
        for each, (sent_at, answered_at) in zip(simulation.operations, moments, strict=True)
    ]

    found = judge(operations, simulation.rows, FREE)

    assert sum("was sent after" in sentence for sentence in found) == pairs_out_of_order(operations)
    assert all("was sent after" in sentence for sentence in found)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(10, 60))
def test_an_answer_that_is_told_another_ones_number_is_found(draw: random.Random, purchases: int) -> None:
    simulation = Simulation(draw).run(purchases)
    promised = [number for number, each in enumerate(simulation.operations) if each.code == RESERVED]
    first, second = draw.sample(promised, 2)
    operations = list(simulation.operations)
    operations[first] = replace(operations[first], seq=simulation.operations[second].seq)
    operations[second] = replace(operations[second], seq=simulation.operations[first].seq)

    assert judge(operations, simulation.rows, FREE) != []


@dataclass
class Rush:
    """Buyers of a real shop who come at the same time, and some who cancel what they got."""

    shop: Shop
    sale: Sale
    pool: Pool
    address: Address
    signer: Signer
    operations: list[Operation] = field(default_factory=list)
    # A cancel waits for the row by asking again and again: all of them at once would keep the worker from writing it.
    cancels: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CANCELS_AT_ONCE))

    async def run(self, *, purchases: int, queues: int, draw: random.Random) -> None:
        """So many purchases by a third as many buyers, some with the key of an earlier one."""
        users = [new_user_id() for _ in range(purchases // 3)]
        wishes = iter(
            [
                (draw.choice(users), draw.randint(1, 2), f"key-{draw.randrange(3)}", draw.random() < 0.15)
                for _ in range(purchases)
            ]
        )
        async with asyncio.TaskGroup() as group:
            for _ in range(queues):
                group.create_task(self._queue(wishes))

    async def _queue(self, wishes: Iterator[tuple[str, int, str, bool]]) -> None:
        for user_id, quantity, key, cancels in wishes:
            operation = await self._buy(user_id, quantity, key)
            if cancels and operation is not None and operation.code == RESERVED:
                async with self.cancels:
                    await self._cancel(operation)

    async def _buy(self, user_id: str, quantity: int, key: str) -> Operation | None:
        request = self.address.request(
            "POST",
            self.shop.purchase_path(self.sale),
            headers={**self.shop.headers(user_id, key=key), "Content-Type": "application/json"},
            body=b'{"quantity":%d}' % quantity,
        )
        status, sent_at = 0, time.monotonic()
        try:
            response = await self.pool.exchange(request, timeout_seconds=DEADLINE_SECONDS)
            status, answer = response.status, read_answer(response)
        except HttpError as error:
            answer = Answer(error.code)
        told = (status, answer.code, answer.order_id, sent_at, time.monotonic())
        attempt = Attempt(0, user_id, key, *told)
        epoch, seq = self._position(answer)
        operation = operation_of(attempt, sale_id=self.sale.id, quantity=quantity, epoch=epoch, seq=seq)
        if operation is not None:
            self.operations.append(operation)
        return operation

    def _position(self, answer: Answer) -> tuple[int, int]:
        """What the shop has signed about it. Raises Forged if it has not."""
        if answer.statement is None:
            return 0, 0
        if answer.order_id is None:
            witness = self.signer.read(Witness, answer.statement)
            return witness.epoch, witness.seq
        receipt = self.signer.read(Receipt, answer.statement)
        return receipt.epoch, receipt.seq

    async def _cancel(self, operation: Operation) -> None:
        client = await self.shop.client()
        for _ in range(CANCEL_TRIES_MAX):
            answer = await client.post(
                f"/v1/orders/{operation.order_id}/cancel", headers=self.shop.headers(operation.user_id)
            )
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
        assert answer.status_code == httpx.codes.OK, answer.text


async def test_a_real_rush_with_cancels_is_right_and_swapped_numbers_are_found(shop: Shop) -> None:
    """2,000 purchases at once, repeats among them, while units come back and stock is added (I1, I2, I5, I6, I9)."""
    sale = await shop.open_sale(units=300, stock=400, units_per_user=2, orders_per_user=3)
    address = Address.of(shop.base_url)
    pool = Pool(address, size=64, connect_timeout_seconds=DEADLINE_SECONDS)
    rush = Rush(shop, sale, pool, address, Signer(shop.settings.secret))
    async with asyncio.TaskGroup() as group:
        group.create_task(rush.run(purchases=PURCHASES, queues=64, draw=random.Random(7)))  # noqa: S311 - no secret
        group.create_task(shop.change(sale, "stock", {"delta": 50}))
    pool.close()
    await shop.drained(sale)
    async with shop.database.transaction() as session:
        entries, rules = await entries_of(session, sale.id), {sale.id: await rules_of(session, sale.id)}

    codes = {code: sum(each.code == code for each in rush.operations) for code in (RESERVED, REPLAYED, SOLD_OUT)}
    assert len(rush.operations) == PURCHASES
    assert min(codes.values()) > 0, codes
    # A latch may be polled late on a busy machine.
    assert check_history(rush.operations, entries, rules, memory_seconds=DEADLINE_SECONDS) == []

    promised = [number for number, operation in enumerate(rush.operations) if operation.code == RESERVED]
    for first, second in itertools.pairwise(promised[:: len(promised) // 8]):
        swapped = list(rush.operations)
        swapped[first] = replace(swapped[first], seq=rush.operations[second].seq)
        swapped[second] = replace(swapped[second], seq=rush.operations[first].seq)
        assert check_history(swapped, entries, rules, memory_seconds=DEADLINE_SECONDS) != []
