"""No Redis: one conditional update of the stock and one insert of the order, in one transaction per purchase.

uvicorn loadtests.baselines.postgres_only:app --port 8003
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

SECRET = os.environ.get("SHOP_SECRET_KEY", "a-secret-for-development-only-never-for-production")
TABLES = (
    "CREATE TABLE IF NOT EXISTS bench_stock (sale_id int PRIMARY KEY, units int NOT NULL CHECK (units >= 0))",
    "CREATE TABLE IF NOT EXISTS bench_orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sale_id int NOT NULL,"
    " user_id text NOT NULL, key text NOT NULL, quantity int NOT NULL, at timestamptz DEFAULT now(),"
    " UNIQUE (sale_id, user_id))",
    "INSERT INTO bench_stock VALUES (1, 100000000) ON CONFLICT DO NOTHING",
)
TAKE = text("UPDATE bench_stock SET units = units - :quantity WHERE sale_id = :sale_id AND units >= :quantity")
INSERT = text(
    "INSERT INTO bench_orders (sale_id, user_id, key, quantity) VALUES (:sale_id, :user, :key, :quantity) RETURNING id"
)

engine = create_async_engine(os.environ.get("SHOP_DATABASE_URL", "postgresql+asyncpg://"), pool_size=20, max_overflow=0)
bearer = OAuth2PasswordBearer(tokenUrl="token")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        for statement in TABLES:
            await connection.execute(text(statement))
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


class Wish(BaseModel):
    quantity: int = Field(1, ge=1, le=10)


class Order(BaseModel):
    id: int
    user_id: str
    quantity: int
    status: str


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
    wanted = {"sale_id": sale_id, "user": user, "key": idempotency_key, "quantity": wish.quantity}
    async with engine.begin() as connection:
        order_id = (await connection.execute(INSERT, wanted)).scalar_one()
        if (await connection.execute(TAKE, {"sale_id": sale_id, "quantity": wish.quantity})).rowcount == 0:
            raise HTTPException(409, "sold_out")
    return Order(id=order_id, user_id=user, quantity=wish.quantity, status="reserved")
