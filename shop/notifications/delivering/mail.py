"""Notifications to buyers: one plain-text mail each, handed to one SMTP server."""

import asyncio
from collections.abc import Callable, Mapping
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as LINES_OF_MAIL
from typing import Any
from urllib.parse import unquote, urlsplit

import aiosmtplib
import idna
from aiosmtplib import (
    SMTPAuthenticationError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

from shop.currencies import written
from shop.notifications.delivering.sinks import Leased, NotDelivered, Undeliverable
from shop.notifications.kinds import Kind
from shop.settings import Settings


class MailChannel:
    """Hands mails to the server of the settings, each over a connection of its own."""

    def __init__(self, settings: Settings) -> None:
        assert settings.smtp_url is not None  # noqa: S101 - without it there is no such channel
        parts = urlsplit(settings.smtp_url.get_secret_value())
        self._timeout = settings.delivery_timeout_seconds
        self._sender, self._locale = settings.mail_from, settings.locale
        # Whoever signs in tells the server a password: never in clear, unless the operator says that it may be so.
        signs_in_over_tls = parts.scheme == "smtp" and parts.username and not settings.smtp_cleartext_sign_in_allowed
        self._server: Callable[[], aiosmtplib.SMTP] = lambda: aiosmtplib.SMTP(
            hostname=parts.hostname,
            port=parts.port,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            use_tls=parts.scheme == "smtps",
            start_tls=True if signs_in_over_tls else None,
            timeout=self._timeout,
        )

    async def deliver(self, leased: Leased) -> None:
        """Hand it over. Raises Undeliverable when there is no such address or the server refuses it for good."""
        message = mail(leased, self._sender, self._locale)
        try:
            async with asyncio.timeout(self._timeout), self._server() as server:
                await server.send_message(message)
        except TimeoutError as error:
            raise NotDelivered(f"not taken within {self._timeout:g} s") from error
        except SMTPNotSupported as error:
            raise Undeliverable("the mail server takes no address with such letters before the @") from error
        except (SMTPException, OSError) as error:
            raise _judged(error) from error

    async def close(self) -> None:
        """There is nothing to close."""


def mail(leased: Leased, sender: str, locale: str = "en") -> EmailMessage:
    """The mail of a notification; its Message-ID is the same at each try. Raises Undeliverable.

    Sums are written as in `locale`.

    The library lets no header have a line break, so nothing in an address or a name can become a header.
    """
    if leased.email is None:
        raise Undeliverable("the user has no account")
    subject, *body = _text(leased.kind, leased.payload["data"], locale)
    message = EmailMessage(policy=LINES_OF_MAIL)
    try:
        sender_address = Address(addr_spec=_ascii_domain(sender))
        message["From"] = sender_address
        message["To"] = Address(addr_spec=_ascii_domain(leased.email))
        message["Subject"] = subject
        message["Date"] = leased.created_at
        message["Message-ID"] = f"<{leased.notification_id}@{sender_address.domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday notice answers it
    except (ValueError, IndexError, MessageError) as error:
        raise Undeliverable("the address is none that mail can be sent to") from error
    message.set_content("\n".join(body) + "\n", cte="quoted-printable")
    return message


def _ascii_domain(address: str) -> str:
    """The address with its domain as mail servers know it (RFC 5891): münchen.example is xn--mnchen-3ya.example.

    Raises ValueError where there is no such domain.
    """
    local, at, domain = address.rpartition("@")
    return address if domain.isascii() else local + at + idna.encode(domain, uts46=True).decode()


def _judged(error: Exception) -> NotDelivered:
    """Whether a later try may succeed: an answer 5xx is final, unless it is about the shop's own sign-in."""
    refused = error.recipients[0] if isinstance(error, SMTPRecipientsRefused) and error.recipients else error
    if isinstance(refused, SMTPResponseException):
        final = refused.code >= 500 and not isinstance(refused, SMTPAuthenticationError)
        return (Undeliverable if final else NotDelivered)(f"answered {refused.code}")
    if type(refused) is SMTPException:  # What the library itself has to say, such as of a server without STARTTLS.
        return NotDelivered(str(refused))
    return NotDelivered(type(refused).__name__)


def _text(kind: str, data: Mapping[str, Any], locale: str) -> list[str]:
    """The subject, then the lines of the body."""
    if kind == Kind.WELCOME:
        return ["Welcome to the shop", "Hello,", "", "your account is ready."]
    subject, sentence = {
        Kind.RESERVED: ("Your order is reserved", f"we hold it for you until {_clock(data['expires_at'])}."),
        Kind.EXPIRING_SOON: ("Your order expires soon", f"it is held until {_clock(data['expires_at'])} only."),
        Kind.PAID: ("Your order is paid", "thank you, your payment has arrived."),
        Kind.CANCELLED: ("Your order is cancelled", "nothing more is to be done."),
        Kind.EXPIRED: ("Your order has expired", "it was not paid in time."),
        Kind.REFUNDED: ("Your order is refunded", "the money is on its way back to you."),
    }[Kind(kind)]
    bought = [f"  {line['quantity']} x {_one_line(line['name'])}" for line in data["lines"]]
    total = f"Total: {written(data['total_minor'], data['currency'], locale)}"
    return [subject, "Hello,", "", sentence, "", f"Order {data['order_id']}", *bought, total]


def _clock(time: str) -> str:
    return f"{time[:10]} {time[11:16]} UTC"


def _one_line(name: str) -> str:
    return " ".join(name.split())
