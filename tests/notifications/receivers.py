"""Those who are told: a merchant's HTTP server and a mail server, both on real sockets of the loopback."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

FLOOD_BYTES = 32 * 1024 * 1024
HANG = -1
FLOOD = -2


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        document: dict[str, Any] = msgspec.json.decode(self.body)
        return document


@dataclass
class Merchant:
    """An HTTP server that answers with `status`: a number, HANG for none at all, FLOOD for a body without an end."""

    port: int = 0
    scheme: str = "http"
    status: int = 200
    requests: list[Request] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    connections: int = 0
    sent: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    def url(self, host: str = "127.0.0.1", path: str = "/hooks") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    @property
    def events(self) -> list[str]:
        """What it was told, in order."""
        return [request.event["type"] for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while await self._answer(reader, writer):
                pass
        self.open.discard(writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
        self.requests.append(Request(line, headers, await reader.readexactly(int(headers["content-length"]))))
        if self.status == HANG:
            await reader.read()
            return False
        if self.status == FLOOD:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % FLOOD_BYTES)
            while self.sent < FLOOD_BYTES:
                writer.write(bytes(64 * 1024))
                await writer.drain()
                self.sent += 64 * 1024
            return False
        more = "Location: /elsewhere\r\n" if 300 <= self.status < 400 else ""
        writer.write(f"HTTP/1.1 {self.status} Told\r\n{more}Content-Length: 2\r\n\r\nok".encode())
        await writer.drain()
        return True


@asynccontextmanager
async def merchant(*, status: int = 200, tls: ssl.SSLContext | None = None) -> AsyncIterator[Merchant]:
    """A merchant who listens at a port of their own while the block lasts."""
    serving = Merchant(status=status, scheme="https" if tls else "http")
    if tls is not None:
        tls.sni_callback = lambda _, name, __: serving.names.append(name)
    server = await asyncio.start_server(serving.serve, "127.0.0.1", 0, ssl=tls)
    serving.port = server.sockets[0].getsockname()[1]
    try:
        yield serving
    finally:
        server.close()
        for writer in list(serving.open):
            writer.transport.abort()


@dataclass
class MailServer:
    """An SMTP server that answers RCPT with `status`."""

    port: int = 0
    status: int = 250
    commands: list[str] = field(default_factory=list)
    mails: list[Message] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test\r\n")
        with suppress(ConnectionError):
            while line := (await reader.readline()).decode().strip():
                self.commands.append(line)
                verb = line.split()[0].upper()
                if verb == "RCPT" and self.status == 250:
                    self.recipients.append(line.partition("<")[2].partition(">")[0])
                answers = {
                    "EHLO": "250-mail.test\r\n250 AUTH PLAIN",
                    "AUTH": "235 In",
                    "RCPT": f"{self.status} Said",
                    "DATA": "354 Go on",
                    "QUIT": "221 Bye",
                }
                writer.write(f"{answers.get(verb, '250 Said')}\r\n".encode())
                if verb == "DATA":
                    data = (await reader.readuntil(b"\r\n.\r\n"))[:-3]
                    self.mails.append(message_from_bytes(data, _class=EmailMessage, policy=policy.default))
                    writer.write(b"250 Taken\r\n")
                if verb == "QUIT":
                    break
        writer.close()


@asynccontextmanager
async def mail_server(*, status: int = 250) -> AsyncIterator[MailServer]:
    """A mail server that listens at a port of its own while the block lasts."""
    serving = MailServer(status=status)
    server = await asyncio.start_server(serving.serve, "127.0.0.1", 0)
    serving.port = server.sockets[0].getsockname()[1]
    try:
        yield serving
    finally:
        server.close()


def certificate(name: str, directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of this name needs, and what a client needs who trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    file = directory / f"{name}.pem"
    file.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())


Resolver = Callable[[str, int], Any]


def always(*addresses: str) -> Resolver:
    """A name server that knows these addresses of every name."""

    async def resolve(host: str, port: int) -> list[str]:
        return [str(ipaddress.ip_address(address)) for address in addresses]

    return resolve
