"""The textbook endpoint: FastAPI, dependencies, Pydantic in and out, PyJWT, redis-py, one EVALSHA per request.

uvicorn loadtests.baselines.textbook:app --port 8002
"""

import os
from typing import Annotated, Any

import jwt
import redis.asyncio as aioredis
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, Field

SECRET = os.environ.get("SHOP_SECRET_KEY", "a-secret-for-development-only-never-for-production")
UNITS = 100_000_000
PURCHASE = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 'over_limit' end
if (tonumber(redis.call('GET', KEYS[1]) or ARGV[4])) < tonumber(ARGV[2]) then return 'sold_out' end
redis.call('SET', KEYS[1], ARGV[4], 'NX')
redis.call('DECRBY', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return redis.call('XADD', KEYS[3], '*', 'user', ARGV[1], 'quantity', ARGV[2], 'key', ARGV[3])
"""

app = FastAPI()
client = aioredis.Redis.from_url(os.environ.get("SHOP_REDIS_URL", "redis://localhost:6379/0"))
purchase_script = client.register_script(PURCHASE)
bearer = OAuth2PasswordBearer(tokenUrl="token")


class Wish(BaseModel):
    quantity: int = Field(1, ge=1, le=10)


class Order(BaseModel):
    id: str
    user_id: str
    quantity: int
    status: str = "reserved"


async def current_user(token: Annotated[str, Depends(bearer)]) -> str:
    try:
        claims: dict[str, Any] = jwt.decode(token, SECRET, algorithms=["HS256"], issuer="shop", audience="shop")
    except jwt.PyJWTError as error:
        raise HTTPException(401, "invalid token") from error
    return str(claims["sub"])


@app.post("/v1/seckill/sales/{sale_id}/orders", status_code=202)
async def buy(
    sale_id: int, wish: Wish, user: Annotated[str, Depends(current_user)], idempotency_key: Annotated[str, Header()]
) -> Order:
    keys = [f"textbook:{{{sale_id}}}:{name}" for name in ("stock", "buyers", "stream")]
    answer = await purchase_script(keys=keys, args=[user, wish.quantity, idempotency_key, UNITS])
    if answer in {b"over_limit", b"sold_out"}:
        raise HTTPException(409, answer.decode())
    return Order(id=answer, user_id=user, quantity=wish.quantity)
