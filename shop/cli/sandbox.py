"""`shop sandbox-provider`: a payment provider to develop against."""

import os
import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from shop.cli.output import Json, emit, fail
from shop.listening_sockets import inherited
from shop.logs import configure_logs
from shop.settings import get_settings
from shop.settings.addresses import server_url

EPILOG = """
The key and the secret that it signs with are those of the shop: SHOP_PAYMENT_API_KEY and SHOP_PAYMENT_WEBHOOK_SECRET.
Whoever reaches it may pay, and change its faults (PUT /sandbox/behaviour): keep it on your machine.

Exit status: 0 stopped when asked to, 1 the address or the file cannot be used, 2 wrong usage or settings.

Examples:

  shop sandbox-provider --webhook-url http://127.0.0.1:8000/v1/payments/webhook

  shop sandbox-provider --data sandbox.db         what was answered survives kill -9

  shop sandbox-provider --lose 0.2 --duplicate 0.2 --drop-reply 0.1 --seed 1

  curl localhost:8900/sandbox/summary             balance the money
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(name="sandbox-provider", epilog=EPILOG)(sandbox_provider)


def _http(url: str | None) -> str | None:
    try:
        return url and server_url(url, ("http", "https"))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def sandbox_provider(
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where it listens; 0 is any free port.")] = 8900,
    public_url: Annotated[
        str | None, typer.Option(callback=_http, help="Where shoppers find it, if that is elsewhere.")
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(callback=_http, help="Where webhooks go; without it there are none.")
    ] = None,
    data: Annotated[Path | None, typer.Option(dir_okay=False, help="Keep the books in this file.")] = None,
    lose: Annotated[float, typer.Option(min=0, max=1, help="Share of webhooks that are never sent.")] = 0.0,
    duplicate: Annotated[float, typer.Option(min=0, max=1, help="Share of webhooks that are sent twice.")] = 0.0,
    reorder: Annotated[float, typer.Option(min=0, max=1, help="Share of webhooks that a later one overtakes.")] = 0.0,
    delay: Annotated[float, typer.Option(min=0, max=60, help="Seconds that a webhook takes at most.")] = 0.0,
    decline: Annotated[float, typer.Option(min=0, max=1, help="Share of payments that are declined.")] = 0.0,
    refuse: Annotated[float, typer.Option(min=0, max=1, help="Share of requests answered with 503.")] = 0.0,
    drop_reply: Annotated[float, typer.Option(min=0, max=1, help="Share of requests done and not answered.")] = 0.0,
    stall: Annotated[float, typer.Option(min=0, max=60, help="Seconds that each answer is held back.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed throws the same dice.")] = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listener that it was started with.")] = None,
    json: Json = False,
) -> None:
    """Run a payment provider that moves no money, with the faults of a real one."""
    os.environ.setdefault("SHOP_ENVIRONMENT", "development")  # It is nobody's production, and needs no other secret.
    settings = get_settings()
    configure_logs(settings)
    from shop.sandbox import server
    from shop.sandbox.behaviour import Behaviour

    behaviour = Behaviour(
        lose_share=lose,
        duplicate_share=duplicate,
        reorder_share=reorder,
        delay_seconds_max=delay,
        decline_share=decline,
        refuse_share=refuse,
        drop_reply_share=drop_reply,
        stall_seconds=stall,
        seed=seed,
    )
    plan = server.SandboxPlan(host, port, public_url, webhook_url, data, behaviour)
    try:
        listener = server.listen(plan) if fd is None else inherited([fd])[0]
    except OSError as error:
        fail(f"the sandbox cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}", code="not_started")
    try:
        books = server.open_books(plan, listener)
    except sqlite3.Error as error:
        fail(f"the file {data} cannot be used: {error}", code="not_started")
    shown = {"sandbox": server.public_url(plan, listener), "webhooks": webhook_url, "data": data and str(data)}
    emit(shown, as_json=json)
    server.serve(settings, plan, listener, books)
