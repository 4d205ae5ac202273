"""For operators: is the process alive, is it ready, and what version is it."""

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from shop.errors import Invalid, NotFound
from shop.problem_json import RETRYABLE_STATUSES, problems, refusals
from shop.readiness import readiness

CODE_LENGTH_MAX = 64

router = APIRouter(tags=["operator"])


class ErrorRead(BaseModel):
    """One way in which the shop refuses."""

    code: str
    status: int
    title: str
    retryable: bool


@router.get("/livez", summary="Is the process alive?")
async def livez() -> dict[str, str]:
    """Whether this process answers; it asks nobody else."""
    return {"status": "ok"}


@router.get("/version")
async def read_version() -> dict[str, str]:
    """Which release this is."""
    return {"version": version("shop")}


@router.get("/errors/{code}", responses=problems(NotFound, Invalid))
async def explain_error(code: Annotated[str, Path(max_length=CODE_LENGTH_MAX)]) -> ErrorRead:
    """What the `type` of a problem document points to."""
    kind = refusals().get(code)
    if kind is None:
        raise NotFound(f"There is no error {code!r}")
    return ErrorRead(code=kind.code, status=kind.status, title=kind.title, retryable=kind.status in RETRYABLE_STATUSES)


@router.get(
    "/readyz", summary="Can the process sell?", responses={503: {"description": "Not ready; `checks` says why."}}
)
async def readyz(request: Request) -> JSONResponse:
    """Whether this process can sell: Postgres, migrations, Redis, scripts and durability."""
    state = request.app.state
    checks = await readiness(state.database, state.ledger, state.settings)
    ready = all(reason is None for reason in checks.values())
    return JSONResponse(
        {"status": "ready" if ready else "not ready", "checks": {name: why or "ok" for name, why in checks.items()}},
        status_code=200 if ready else 503,
    )
