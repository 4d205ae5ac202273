"""For operators: is the process alive, is it ready, and what version is it."""

from html import escape
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from shop.advice import ADVICE, ADVICE_BY_CLASS
from shop.app_keys import AppKey
from shop.errors import Invalid, NotFound
from shop.json_bodies import JsonRoute
from shop.problem_json import RETRYABLE_STATUSES, problem_of_code, problems
from shop.readiness import Readiness, log_changes, summary

READINESS = AppKey[Readiness]("readiness")

router = APIRouter(tags=["operator"], route_class=JsonRoute)


ERROR_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    "<h1>{title}</h1><p>{advice}</p><p>Status {status}, code <code>{code}</code>.</p></html>"
)


WELCOME_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
    "<h1>{name} {version}</h1><p>{about}</p><ul>{places}</ul></html>"
)
ABOUT = (
    "A flash-sale shop: it sells a fixed number of units to a crowd, and never one too many."
    " To buy, sign up, sign in, and send a purchase to a sale, as the documentation shows."
)
PLACES = {
    "documentation": "/docs",
    "openapi": "/openapi.json",
    "products": "/v1/products",
    "sales": "/v1/seckill/sales",
    "ready": "/readyz",
}


class Welcome(BaseModel):
    """What this is, and where to go."""

    name: str
    version: str
    about: str
    places: dict[str, str]


class ErrorRead(BaseModel):
    """One way in which the shop refuses, and what to do about it."""

    code: str
    status: int
    title: str
    retryable: bool
    advice: str


@router.get(
    "/",
    summary="What is this?",
    response_model=Welcome,
    responses={200: {"description": "For people as HTML, if `Accept` names it.", "content": {"text/html": {}}}},
)
async def welcome(request: Request) -> Response:
    """Say it to a person with a browser, and to a program."""
    read = Welcome(name="Shop", version=version("shop"), about=ABOUT, places=PLACES)
    headers = {"Vary": "Accept"}
    if "text/html" in request.headers.get("accept", ""):
        places = "".join(f'<li><a href="{path}">{name.replace("_", " ")}</a></li>' for name, path in PLACES.items())
        return HTMLResponse(WELCOME_PAGE.format_map({**read.model_dump(), "places": places}), headers=headers)
    return JSONResponse(read.model_dump(), headers=headers)


@router.get("/livez", summary="Is the process alive?")
async def livez() -> dict[str, str]:
    """Whether this process answers; it asks nobody else."""
    return {"status": "ok"}


@router.get("/version")
async def read_version() -> dict[str, str]:
    """Which release this is."""
    return {"version": version("shop")}


@router.get(
    "/errors/{code}",
    response_model=ErrorRead,
    responses={
        200: {"description": "For people as HTML, if `Accept` names it.", "content": {"text/html": {}}},
        **problems(NotFound, Invalid),
    },
)
async def explain_error(
    code: Annotated[str, Path(max_length=64, description="The last part of a problem's `type`.")],
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """What the `type` of a problem document points to: the meaning of a refusal, and what to do about it."""
    error = problem_of_code(code)
    if error is None:
        raise NotFound("There is no error with this code")
    read = ErrorRead(
        code=error.code,
        status=error.status,
        title=error.title,
        retryable=error.status in RETRYABLE_STATUSES,
        advice=ADVICE.get(error.code) or ADVICE_BY_CLASS[error.status // 100],
    )
    headers = {"Vary": "Accept"}
    if "text/html" in accept:
        told = {name: escape(str(value)) for name, value in read.model_dump().items()}
        return HTMLResponse(ERROR_PAGE.format_map(told), headers=headers)
    return JSONResponse(read.model_dump(), headers=headers)


@router.get(
    "/readyz", summary="Can the process sell?", responses={503: {"description": "Not ready; `checks` says why."}}
)
async def readyz(request: Request) -> JSONResponse:
    """Whether this process can sell: Postgres, migrations, Redis, scripts and durability."""
    checks = await READINESS.of(request).checks()
    log_changes(checks)
    ready, shown = summary(checks, lambda failing: failing.reason)
    return JSONResponse(shown, status_code=200 if ready else 503)
