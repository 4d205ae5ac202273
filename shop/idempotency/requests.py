"""The key over HTTP. A route that needs one looks like this:

    @router.post(…, response_model=Read, responses=problems(…, *KEY_PROBLEMS))
    async def route(…, asked: AskedDep, session: SessionDep) -> Response:
        return answer(await once(session, asked, lambda: service.work(session, …), status=200))

where the work returns the model that is answered.
"""

from typing import Annotated

from fastapi import Depends, Header, Request, Response

from shop.auth import ActorDep
from shop.errors import IdempotencyKeyInvalid, IdempotencyKeyMissing, IdempotencyMismatch
from shop.idempotency.keys import parse_key
from shop.idempotency.service import Answer, Asked, fingerprint

KEY_PROBLEMS = (IdempotencyKeyMissing, IdempotencyKeyInvalid, IdempotencyMismatch)
REPLAYED = "Idempotency-Replayed"


# Told to clients and not tried by Pydantic: what is no key is 400 with a code of its own, as in the purchase lane.
_KEY = Header(
    alias="Idempotency-Key",
    description="1–128 visible ASCII characters, bare or quoted. A repeat with the same key has no second effect.",
    json_schema_extra={"minLength": 1, "maxLength": 130, "pattern": '^([!#-~][!-~]{0,127}|"[!-~]{1,128}")$'},
)
NeededKey = Annotated[str, _KEY]
OptionalKey = Annotated[str | None, _KEY]


async def _asked(request: Request, actor: ActorDep, idempotency_key: NeededKey) -> Asked:
    key = parse_key(idempotency_key)
    return Asked(actor.id, key, fingerprint(request.method, request.url.path, await request.body()))


AskedDep = Annotated[Asked, Depends(_asked)]


def answer(done: Answer) -> Response:
    """The kept answer, byte for byte; a replay says that it is one."""
    headers = {REPLAYED: "true"} if done.replayed else None
    return Response(done.body, status_code=done.status, media_type="application/json", headers=headers)
