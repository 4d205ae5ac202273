"""Put the API together: FastAPI with its routers, the purchase lane in front, the request context around both."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp, Receive, Scope, Send

import shop.admin_events.router
import shop.audit.router
import shop.notifications.router
import shop.orders.events_router
import shop.orders.listing.router
import shop.orders.router
import shop.payments.listing.router
import shop.payments.router
import shop.products.router
import shop.sales.router
import shop.support.explaining.router
import shop.support.trail.router
import shop.users.listing.router
import shop.users.router
from shop.app import document, operator, problems
from shop.app.context import RequestContext
from shop.app.cors import Cors, CorsAdmission
from shop.app.directory import follow_directory, follow_latches
from shop.app.forwarding import Forwarded
from shop.app.heartbeat import send_heartbeats
from shop.app.methods import Methods
from shop.app.pages import PageHeaders
from shop.auth import Revocations, TokenVerifier
from shop.cache import Cache
from shop.clock import watch_clock
from shop.database import Database
from shop.kept_connections import keep_connections
from shop.ledger.receipts import Signer
from shop.logs import configure_logs
from shop.order_changes import Announcer, Changes
from shop.orders.announcing import ANNOUNCER
from shop.orders.following import OrderReader, poll_orders
from shop.orders.payment_of import PAYMENTS
from shop.orders.placing import order_limiter
from shop.orders.repeats import Statuses
from shop.payments.following import PaymentsOfOrders
from shop.payments.gateway import HttpGateway
from shop.pool_sizes import FOLLOWERS_POOL_MAX
from shop.processes import die_with_parent
from shop.rate_limit import rate_limiter
from shop.redis import all_scripts, connect
from shop.seckill.admission import PurchaseAdmission
from shop.seckill.checking import Checker
from shop.seckill.lane import ROUTE, PurchaseLane
from shop.seckill.polls import Polls
from shop.seckill.registry import Registry
from shop.seckill.requests import RequestIds
from shop.seckill.tally import Tally
from shop.server.connections import STATE, Connections
from shop.server.gate import OverloadGate
from shop.settings import Settings, get_settings
from shop.stopping import cancel_and_wait, supervise
from shop.support.explaining.service import explain_limiter
from shop.users.following import follow_revocations
from shop.users.passwords import Passwords
from shop.users.throttle import sign_in_limiters

COLLECT_AFTER_ALLOCATIONS = 20_000
FIRST_READ_SECONDS_MAX = 5.0
FOLLOWERS_END_SECONDS = 0.5


class ShopApp:
    """The whole API as one ASGI application; `fastapi` is the part behind the lane, for its state and its OpenAPI."""

    def __init__(self, fastapi: FastAPI, app: ASGIApp) -> None:
        self.fastapi = fastapi
        self.asgi = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.asgi(scope, receive, send)


def create_app_from_environment() -> ASGIApp:
    """For the server: the settings come from the environment."""
    die_with_parent()
    settings = get_settings()
    configure_logs(settings)
    app = create_app(settings).asgi
    _spare_the_collector()
    return app


def _spare_the_collector() -> None:
    """Look for cycles less often, and never again at what lives as long as the process.

    A purchase makes none, and the collector's visits cost a purchase 5 to 9 % of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_ALLOCATIONS, 20, 50)


def create_app(settings: Settings) -> ShopApp:
    """The API. Nothing is connected before the first request or the lifespan. Raises ScriptMissing."""
    all_scripts()
    ledger = connect(settings.redis_url, settings)
    side = ledger if settings.side_redis_url == settings.redis_url else connect(settings.side_redis_url, settings)
    subscription = connect(settings.side_redis_url, settings, connections_max=1)
    announcer, changes = Announcer(side, settings), Changes(subscription, settings)
    database = Database(
        settings, application_name="shop-api", info={ANNOUNCER: announcer, PAYMENTS: PaymentsOfOrders()}
    )
    # What the process must learn waits behind no request: a closed sale sends its whole crowd to Postgres, until
    # the process has learned that it sells again.
    followed = Database(settings, application_name="shop-api", pool_max=FOLLOWERS_POOL_MAX)
    verifier, revocations, passwords = TokenVerifier(settings), Revocations(), Passwords(settings)
    gateway = HttpGateway(settings)
    gate = OverloadGate(
        delay_seconds_max=settings.overload_delay_seconds, refused_at_once_max=settings.overload_refused_at_once_max
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        # They are asked to stop first; one that waits for a server that hangs is then cancelled, until it has ended.
        stopping, listed, read = asyncio.Event(), asyncio.Event(), asyncio.Event()
        followers: dict[str, Callable[[], Awaitable[None]]] = {
            "directory": lambda: follow_directory(
                registry,
                followed,
                ledger,
                settings,
                limiter=limiter,
                requests=database,
                first_read=listed,
                stopping=stopping,
            ),
            "heartbeat": lambda: send_heartbeats(registry, followed, settings, stopping),
            "latches": lambda: follow_latches(registry, tally, settings, stopping),
            "revocations": lambda: follow_revocations(followed, revocations, settings, read=read, stopping=stopping),
            "clock": lambda: watch_clock(stopping),
            "connections": lambda: connections.keep(stopping),
            "kept_connections": lambda: keep_connections(
                {followed: FOLLOWERS_POOL_MAX, database: settings.database_pool_kept}, stopping
            ),
            "changes": lambda: changes.follow(stopping),
            "changed_orders": lambda: poll_orders(followed, changes, settings, stopping),
        }
        async with asyncio.TaskGroup() as group:
            following = [
                group.create_task(_supervise_follower(name, follow, settings, stopping))
                for name, follow in followers.items()
            ]
            # A process that does not know what is on sale would refuse the crowd that its predecessor served, and one
            # that does not know what was revoked would serve those whom its predecessor refused.
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_READ_SECONDS_MAX):
                    await listed.wait()
                    await read.wait()
            yield {STATE: connections}
            stopping.set()
            await cancel_and_wait(following, within=FOLLOWERS_END_SECONDS)
        await announcer.close()
        tally.flush()
        passwords.close()
        await database.close()
        await followed.close()
        await gateway.close()
        for client in {ledger, side, subscription}:
            await client.aclose(close_connection_pool=True)

    fastapi = _fastapi(settings, lifespan)
    fastapi.state.settings = settings
    fastapi.state.database = database
    fastapi.state.ledger = ledger
    fastapi.state.gateway = gateway
    fastapi.state.changes = changes
    fastapi.state.order_reader = OrderReader(database, settings)
    fastapi.state.cache = Cache(side, settings)
    fastapi.state.verifier = verifier
    fastapi.state.revocations = revocations
    revocations.told = changes.wake_accounts
    fastapi.state.passwords = passwords
    fastapi.state.limiters = sign_in_limiters(side, settings)
    fastapi.state.order_limiter = order_limiter(side, settings)
    fastapi.state.explain_limiter = explain_limiter(side, settings)
    limiter = rate_limiter(
        side, settings, name="buy", rate_per_second=settings.purchase_rate_per_second, burst=settings.purchase_burst
    )
    registry, tally, polls = Registry(Signer(settings.secret)), Tally("POST", ROUTE), Polls(settings)
    checker, request_ids = Checker(verifier, revocations), RequestIds()
    admission = PurchaseAdmission(registry=registry, gate=gate, checker=checker, request_ids=request_ids, tally=tally)
    lane = PurchaseLane(
        Forwarded(RequestContext(Methods(PageHeaders(fastapi), fastapi.routes), settings), settings),
        settings=settings,
        registry=registry,
        checker=checker,
        limiter=limiter,
        changes=changes,
        polls=polls,
        request_ids=request_ids,
        tally=tally,
        status_of=Statuses(database).status_of,
    )
    fastapi.state.polls = polls
    cors = Cors(lane, settings) if settings.cors_origins else None
    connections = Connections(
        settings, CorsAdmission(admission, cors) if cors else admission, gate, on_stop=changes.stop
    )
    return ShopApp(fastapi, cors or lane)


async def _supervise_follower(
    name: str, follow: Callable[[], Awaitable[None]], settings: Settings, stopping: asyncio.Event
) -> None:
    await supervise(
        name,
        follow,
        stopping,
        delay_min_seconds=settings.retry_delay_min_seconds,
        delay_max_seconds=settings.retry_delay_max_seconds,
    )


def _fastapi(settings: Settings, lifespan: object) -> FastAPI:
    app = FastAPIOffline(
        **document.ABOUT,
        version=version("shop"),
        lifespan=lifespan,
        # It would send the client wherever its Host says.
        redirect_slashes=False,
        generate_unique_id_function=document.operation_id,
        separate_input_output_schemas=False,
    )
    problems.install(app)
    document.install(app)
    for router in (
        shop.users.router.router,
        shop.products.router.router,
        shop.sales.router.router,
        shop.orders.router.router,
        shop.payments.router.router,
        shop.orders.events_router.router,
        shop.users.listing.router.router,
        shop.orders.listing.router.router,
        shop.payments.listing.router.router,
        shop.admin_events.router.router,
        shop.notifications.router.router,
        shop.audit.router.router,
        shop.support.explaining.router.router,
        shop.support.trail.router.router,
        operator.router,
    ):
        app.include_router(router)
    return app
