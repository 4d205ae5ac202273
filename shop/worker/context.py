"""What the tasks of one worker share: its clients, and what is to be stopped with them."""

import asyncio
from dataclasses import dataclass, field

import redis.asyncio as aioredis

from shop.database import Database
from shop.failure_isolation import Isolation
from shop.notifications.delivering.delivery import Deliverer, channels
from shop.order_news import Announcer
from shop.orders.announcing import ANNOUNCER
from shop.orders.payment_of import PAYMENTS
from shop.orders.persister import APPLICATION_NAME
from shop.payments.gateway import Gateway, HttpGateway
from shop.payments.order_payments import PaymentsOfOrders
from shop.redis import connect
from shop.settings import Settings
from shop.stopping import cancel_and_wait


@dataclass
class Context:
    """What the worker's tasks share."""

    settings: Settings
    database: Database
    persist_database: Database
    ledger: aioredis.Redis
    streams: aioredis.Redis
    side: aioredis.Redis
    gateway: Gateway
    announcer: Announcer
    deliverer: Deliverer
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    epochs: dict[int, int] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    """The jobs that are at work."""
    isolations: dict[str, Isolation] = field(default_factory=dict)

    @classmethod
    def connect(cls, settings: Settings) -> "Context":
        """The clients of one worker. Nothing is connected yet."""
        ledger = connect(settings.redis_url, settings)
        streams = connect(settings.redis_url, settings, connections_max=settings.persist_sales_max + 1)
        same = settings.side_redis_url == settings.redis_url
        side = ledger if same else connect(settings.side_redis_url, settings)
        announcer = Announcer(side, settings)
        info = {ANNOUNCER: announcer, PAYMENTS: PaymentsOfOrders()}
        database = Database(settings, application_name="shop-worker", pool_max=settings.worker_pool_max, info=info)
        return cls(
            settings=settings,
            database=database,
            persist_database=Database(
                settings,
                application_name=APPLICATION_NAME,
                pool_max=settings.worker_pool_max,
                waiting_max=settings.persist_sales_max,
                statement_seconds=settings.persist_timeout_seconds,
                info=info,
            ),
            ledger=ledger,
            streams=streams,
            gateway=HttpGateway(settings),
            side=side,
            announcer=announcer,
            deliverer=Deliverer(database, settings, channels(settings)),
        )

    def isolation(self, loop: str) -> Isolation:
        """The items of this loop, which are remembered from one run of a job to the next."""
        return self.isolations.setdefault(loop, Isolation(loop, self.settings))

    async def close(self) -> None:
        """Let the batches in hand finish, then close every connection."""
        self.stopping.set()
        await cancel_and_wait(self.tasks, within=self.settings.graceful_stop_seconds)
        await self.announcer.close()
        await self.deliverer.close(within=self.settings.graceful_stop_seconds / 2)
        await self.database.close()
        await self.persist_database.close()
        await self.gateway.close()
        for client in {self.ledger, self.streams, self.side}:
            await client.aclose(close_connection_pool=True)
