# One image for every role of the shop: `shop api` (the default), `shop worker`, `shop migrate`.

FROM python:3.13-slim AS build

ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/shop \
    UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv
WORKDIR /build

# What the shop is made of changes seldom, the shop itself often: each has a layer of its own.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project --no-cache

COPY README.md LICENSE ./
COPY lua/ lua/
COPY migrations/ migrations/
COPY loadtests/ loadtests/
COPY shop/ shop/
RUN uv sync --frozen --no-dev --no-editable --no-cache


FROM python:3.13-slim

RUN useradd --system --uid 10001 --user-group --create-home --home-dir /home/shop shop
COPY --from=build /opt/shop /opt/shop

# In a container the loopback interface reaches nobody; what is published is decided outside.
ENV PATH=/opt/shop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SHOP_API_HOST=0.0.0.0 \
    SHOP_METRICS_HOST=0.0.0.0
USER shop
WORKDIR /home/shop
EXPOSE 8000 9100

# Life, not readiness: an API that answers has reached Postgres and the ledger once, else it would not have started. While
# Postgres is away purchases go on, and whoever ends unhealthy containers would end the sale. No proxy is asked.
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/livez', timeout=3)"]

CMD ["shop", "api"]
