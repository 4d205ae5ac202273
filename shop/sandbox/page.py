"""The hosted payment page: one plain document without anything from elsewhere, and without a script."""

import base64
import hashlib
from html import escape
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse

from shop.currencies import written
from shop.sandbox.records import Intent

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5; }
main { max-width: 26rem; margin: 4rem auto; padding: 0 1.25rem; }
.amount { font-size: 2.25rem; font-weight: 700; margin: 0; }
dt { opacity: .75; } dd { margin: 0 0 .75rem; overflow-wrap: anywhere; }
.outcome { border-left: .25rem solid currentColor; padding: .25rem .75rem; font-weight: 600; }
form { display: flex; gap: .75rem; flex-wrap: wrap; margin: 1.5rem 0; }
button { font: inherit; padding: .6rem 1.4rem; border-radius: .5rem; border: 1px solid currentColor; cursor: pointer;
  background: Canvas; color: CanvasText; }
button[value=pay] { background: #0a5c36; border-color: #0a5c36; color: #fff; font-weight: 600; }
button:focus-visible { outline: .2rem solid #3b82f6; outline-offset: .15rem; }
small { opacity: .75; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    # Who knows the address may pay: it is told to nobody.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def payment_page(intent: Intent, return_url: str | None = None) -> HTMLResponse:
    """The page of an intent, as it is now; its buttons may lead back to the shop."""
    parts = urlsplit(return_url or "")
    back = "" if return_url is None else f'<p><a href="{escape(return_url)}">Back to the shop</a></p>'
    details = f"""
<p class="amount">{escape(written(intent.amount_minor, intent.currency))}</p>
{_outcome(intent)}
<dl><dt>Order</dt><dd>{escape(intent.order_id)}</dd><dt>Payment</dt><dd>{escape(intent.id)}</dd></dl>
{_form(intent) if intent.status == "open" else ""}
{back}"""
    return _page("Payment", details, form_targets="" if return_url is None else f" {parts.scheme}://{parts.netloc}")


def missing_page() -> HTMLResponse:
    """What is shown when there is no such intent."""
    return _page("No such payment", '<p role="status">There is no payment at this address.</p>', status=404)


def _outcome(intent: Intent) -> str:
    if intent.status == "captured" and intent.refunded_minor:
        said = (
            "Paid, and given back."
            if intent.refunded_minor >= intent.captured_minor
            else "Paid, and partly given back."
        )
    elif intent.status == "captured":
        said = "Paid. Thank you."
    elif intent.status == "cancelled":
        said = "This payment was cancelled. Nothing was charged."
    elif intent.attempts:
        said = "The payment was declined. Nothing was charged; you can try again."
    else:
        return ""
    return f'<p class="outcome" role="status">{said}</p>'


def _form(intent: Intent) -> str:
    return f"""<form method="post" action="/pay/{escape(intent.id)}">
<button name="outcome" value="pay">Pay {escape(written(intent.amount_minor, intent.currency))}</button>
<button name="outcome" value="decline">Have it declined</button>
</form>"""


def _page(title: str, content: str, *, status: int = 200, form_targets: str = "") -> HTMLResponse:
    document = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · sandbox</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
<p><small>This is a sandbox: no money moves.</small></p>
</main>
</body>
</html>
"""
    policy = HEADERS["Content-Security-Policy"].replace("form-action 'self'", f"form-action 'self'{form_targets}")
    return HTMLResponse(document, status, {**HEADERS, "Content-Security-Policy": policy})
