"""Put the API together: FastAPI with its routers, the purchase lane in front, the request context around both."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

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
from shop.app.admission import AppAdmission
from shop.app.context import RequestContext
from shop.app.cors import Cors, CorsAdmission
from shop.app.followers import following
from shop.app.forwarding import Forwarded
from shop.app.gates import STREAMS, Gates
from shop.app.methods import Methods
from shop.app.pages import PageHeaders
from shop.app.reads_in_time import ReadsInTime
from shop.app.state import AppState
from shop.ledger.receipts import Signer
from shop.logs import configure_logs
from shop.orders.event_lane import EventLane
from shop.orders.repeats import Statuses
from shop.processes import die_with_parent
from shop.redis import all_scripts
from shop.seckill.admission import PurchaseAdmission
from shop.seckill.checking import Checker
from shop.seckill.direct import DirectSale
from shop.seckill.lane import PurchaseLane
from shop.seckill.requests import RequestIds
from shop.server.connections import STATE, Connections
from shop.server.gate import OverloadGate
from shop.settings import Settings, get_settings

COLLECT_AFTER_ALLOCATIONS = 20_000

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Connections]]]


class ShopApp:
    """The whole API as one ASGI application; `fastapi` is the part behind the lane, for its OpenAPI document."""

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
    state = AppState.connect(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Connections]]:
        async with following(state, connections):
            yield {STATE: connections}
        await state.close()

    fastapi = _fastapi(lifespan)
    state.put_into(fastapi)
    checker, request_ids = Checker(state.verifier, state.revocations), RequestIds()
    lane = _lane(fastapi, state, checker, request_ids)
    cors = Cors(lane, settings) if settings.cors_origins else None
    connections = _connections(state, checker, request_ids, cors)
    return ShopApp(fastapi, cors or lane)


def _lane(fastapi: FastAPI, state: AppState, checker: Checker, request_ids: RequestIds) -> PurchaseLane:
    """The lane, and behind it whatever surrounds every other request."""
    settings = state.settings
    gates = Gates(Methods(PageHeaders(fastapi), fastapi.routes), settings)
    events = EventLane(
        RequestContext(ReadsInTime(gates, settings), settings),
        streams=state.streams,
        checker=checker,
        request_ids=request_ids,
        tally=state.stream_tally,
        run=gates.share(STREAMS).run,
        settings=settings,
    )
    return PurchaseLane(
        Forwarded(events, settings),
        settings=settings,
        registry=state.registry,
        checker=checker,
        limiter=state.purchase_limiter,
        changes=state.changes,
        polls=state.polls,
        request_ids=request_ids,
        tally=state.tally,
        status_of=Statuses(state.database).status_of,
    )


def _connections(state: AppState, checker: Checker, request_ids: RequestIds, cors: Cors | None) -> Connections:
    """The connections of the server, which asks the lane's admission before it begins a request."""
    settings = state.settings
    gate = OverloadGate(
        delay_seconds_max=settings.overload_delay_seconds, refused_at_once_max=settings.overload_refused_at_once_max
    )
    direct = DirectSale(
        checker=checker,
        limiter=state.purchase_limiter,
        signer=Signer(settings.secret),
        polls=state.polls,
        request_ids=request_ids,
        tally=state.tally,
        body_bytes_max=settings.purchase_body_bytes_max,
    )
    admission = PurchaseAdmission(
        registry=state.registry, gate=gate, checker=checker, direct=direct, request_ids=request_ids, tally=state.tally
    )
    whole = AppAdmission(admission, state.order_states, state.pages, state.liveness)
    return Connections(settings, CorsAdmission(whole, cors) if cors else whole, gate, on_stop=state.changes.stop)


def _fastapi(lifespan: Lifespan) -> FastAPI:
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
