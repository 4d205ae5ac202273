"""What one application holds: connected here, closed here, and put where its routers find what they need."""

from collections.abc import Sequence
from dataclasses import dataclass

import redis.asyncio as aioredis
from starlette.applications import Starlette

from shop.app.liveness import Liveness
from shop.app.operator import READINESS
from shop.app_keys import SETTINGS
from shop.auth import REVOCATIONS, VERIFIER, Revocations, TokenVerifier
from shop.cache import CACHE, Cache
from shop.database import Database
from shop.ledger.receipts import Signer
from shop.order_news import Announcer, Changes
from shop.order_states.admission import OrderStates
from shop.order_states.followed import FollowedOrders
from shop.order_states.memory import StateMemory
from shop.order_states.reading import StateReader
from shop.order_states.recorded import RecordedReader
from shop.order_states.unrecorded import UnrecordedReader
from shop.orders.announcing import ANNOUNCER
from shop.orders.event_lane import ROUTE as EVENTS_ROUTE
from shop.orders.events_router import STREAMS
from shop.orders.order_reader import OrderReader
from shop.orders.order_stream import Streams
from shop.orders.payment_of import PAYMENTS
from shop.orders.placing import order_limiter
from shop.orders.router import ORDER_LIMITER, POLLS
from shop.payments.gateway import Gateway, HttpGateway
from shop.payments.order_payments import PaymentsOfOrders
from shop.payments.router import GATEWAY
from shop.pipelined import PipelinedConnection
from shop.pool_sizes import FOLLOWERS_POOL_MAX
from shop.products.hot import HOT_PRODUCTS, HotProducts
from shop.products.reading import PRODUCT_READER, ProductReader
from shop.products.service import product_of
from shop.public_pages.admission import PublicPages
from shop.public_pages.memory import PageMemory
from shop.public_pages.reading import HOT, PRODUCT, PRODUCTS, PageReader
from shop.rate_limit import RateLimiter, rate_limiter
from shop.readiness import Readiness
from shop.redis import connect
from shop.request_session import DATABASE, LEDGER
from shop.seckill.checking import Checker
from shop.seckill.lane import ROUTE
from shop.seckill.polls import Polls
from shop.seckill.registry import Registry
from shop.seckill.requests import RequestIds
from shop.seckill.tally import Tally
from shop.settings import Settings
from shop.support.explaining.router import EXPLAIN_LIMITER
from shop.support.explaining.service import explain_limiter
from shop.users.passwords import Passwords
from shop.users.router import PASSWORDS
from shop.users.throttle import SIGN_IN_LIMITERS, SignInLimiters, sign_in_limiters


@dataclass(frozen=True)
class AppState:
    """What one application holds. `followers_database` is the pool of those who learn what the process must know.

    They wait behind no request: a closed sale sends its whole crowd to Postgres, until the process has learned that it
    sells again.
    """

    settings: Settings
    ledger: aioredis.Redis
    side: aioredis.Redis
    subscription: aioredis.Redis
    scripts: PipelinedConnection
    database: Database
    followers_database: Database
    announcer: Announcer
    changes: Changes
    gateway: Gateway
    passwords: Passwords
    verifier: TokenVerifier
    revocations: Revocations
    cache: Cache
    product_reader: ProductReader
    hot: HotProducts
    pages: PublicPages
    order_states: OrderStates
    liveness: Liveness
    streams: Streams
    sign_in_limiters: SignInLimiters
    purchase_limiter: RateLimiter
    order_limiter: RateLimiter
    explain_limiter: RateLimiter
    registry: Registry
    tally: Tally
    stream_tally: Tally
    polls: Polls

    @classmethod
    def connect(cls, settings: Settings) -> "AppState":
        """The clients of one application. Nothing is connected before the first request or the lifespan."""
        ledger = connect(settings.redis_url, settings)
        same = settings.side_redis_url == settings.redis_url
        side = ledger if same else connect(settings.side_redis_url, settings)
        subscription = connect(settings.side_redis_url, settings, connections_max=1)
        announcer, changes = Announcer(side, settings), Changes(subscription, settings)
        info = {ANNOUNCER: announcer, PAYMENTS: PaymentsOfOrders()}
        locks = settings.database_lock_timeout_seconds
        database = Database(settings, application_name="shop-api", lock_seconds=locks, info=info)
        cache = Cache(side, settings)
        product_reader, hot = ProductReader(database, cache, settings), HotProducts(database, side, settings)
        polls, verifier, revocations = Polls(settings), TokenVerifier(settings), Revocations()
        revocations.told = changes.wake_accounts
        return cls(
            settings=settings,
            ledger=ledger,
            side=side,
            subscription=subscription,
            scripts=PipelinedConnection(ledger),
            database=database,
            followers_database=Database(settings, application_name="shop-api", pool_max=FOLLOWERS_POOL_MAX),
            announcer=announcer,
            changes=changes,
            gateway=HttpGateway(settings),
            passwords=Passwords(settings),
            verifier=verifier,
            revocations=revocations,
            cache=cache,
            product_reader=product_reader,
            hot=hot,
            pages=_pages(database, cache, product_reader, hot, settings),
            order_states=_order_states(database, ledger, Checker(verifier, revocations), polls, settings),
            liveness=Liveness(RequestIds()),
            streams=_streams(database, ledger, changes, revocations, settings),
            sign_in_limiters=sign_in_limiters(side, settings),
            purchase_limiter=_purchase_limiter(side, settings),
            order_limiter=order_limiter(side, settings),
            explain_limiter=explain_limiter(side, settings),
            registry=Registry(Signer(settings.secret)),
            tally=Tally("POST", ROUTE),
            polls=polls,
            stream_tally=Tally("GET", EVENTS_ROUTE),
        )

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """What is counted before the application."""
        return (self.tally, self.stream_tally, self.order_states.tally, self.liveness.tally, *self.pages.tallies)

    def put_into(self, app: Starlette) -> None:
        """Let the routes of this application have the pieces that they ask for."""
        SETTINGS.put(app, self.settings)
        LEDGER.put(app, self.ledger)
        DATABASE.put(app, self.database)
        GATEWAY.put(app, self.gateway)
        PASSWORDS.put(app, self.passwords)
        VERIFIER.put(app, self.verifier)
        REVOCATIONS.put(app, self.revocations)
        CACHE.put(app, self.cache)
        PRODUCT_READER.put(app, self.product_reader)
        HOT_PRODUCTS.put(app, self.hot)
        STREAMS.put(app, self.streams)
        SIGN_IN_LIMITERS.put(app, self.sign_in_limiters)
        ORDER_LIMITER.put(app, self.order_limiter)
        EXPLAIN_LIMITER.put(app, self.explain_limiter)
        POLLS.put(app, self.polls)
        READINESS.put(app, Readiness(self.database, self.ledger, self.settings))

    async def close(self) -> None:
        """Tell what is left to tell, then close every connection."""
        await self.announcer.close()
        for tally in self.tallies:
            tally.flush()
        self.passwords.close()
        await self.database.close()
        await self.followers_database.close()
        await self.gateway.close()
        self.scripts.close()
        for client in {self.ledger, self.side, self.subscription}:
            await client.aclose(close_connection_pool=True)


def _purchase_limiter(redis: aioredis.Redis, settings: Settings) -> RateLimiter:
    return rate_limiter(
        redis, settings, name="buy", rate_per_second=settings.purchase_rate_per_second, burst=settings.purchase_burst
    )


def _streams(
    database: Database, ledger: aioredis.Redis, changes: Changes, revocations: Revocations, settings: Settings
) -> Streams:
    followed = FollowedOrders(database, ledger, poll_after_ms=settings.poll_after_ms)
    return Streams(changes, OrderReader(followed.read, settings), revocations, settings)


def _pages(
    database: Database, cache: Cache, product_reader: ProductReader, hot: HotProducts, settings: Settings
) -> PublicPages:
    memory = PageMemory(
        PageReader(database, cache, product_reader, hot, settings).read,
        bytes_max=settings.public_pages_bytes_max,
        waiters_max=settings.public_page_waiters_max,
        stale_seconds_max=settings.public_page_stale_seconds_max,
    )

    def forget(keys: Sequence[str]) -> None:
        for key in keys:
            product_id = product_of(key)
            if product_id is None:
                memory.forget(PRODUCTS)
                memory.forget(HOT)
            else:
                memory.forget(PRODUCT, product_id)

    cache.invalidated = forget
    return PublicPages(memory, RequestIds(), hot.count)


def _order_states(
    database: Database, ledger: aioredis.Redis, checker: Checker, polls: Polls, settings: Settings
) -> OrderStates:
    recorded = RecordedReader(database, StateMemory(settings.order_states_bytes_max))
    unrecorded = UnrecordedReader(database, ledger, polls)
    reader = StateReader(recorded, unrecorded, polls, seconds_max=settings.order_state_seconds_max)
    return OrderStates(reader, checker, RequestIds())
