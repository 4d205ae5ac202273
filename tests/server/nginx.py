"""The nginx of deploy/ in front of a shop, and a second one in front of it that ends TLS, as an operator has them."""

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shop.processes import run_beside
from tests.harness import wait_until
from tests.nursery import END_SECONDS
from tests.ports import unused_port
from tests.source_tree import ROOT

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
# The terminator's own address on the loopback, where every 127.x.y.z is this machine.
TERMINATOR = "127.0.9.1"

TERMINATOR_CONFIG = """
events {{}}
http {{
    {paths}
    access_log off;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {directory}/certificate.pem;
        ssl_certificate_key {directory}/key.pem;
        location / {{
            proxy_http_version 1.1;
            proxy_bind {address};
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Host $http_host;
            proxy_pass http://127.0.0.1:{behind};
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Edge:
    """Where nginx answers, and where TLS ends in front of it."""

    port: int
    tls_port: int
    directory: Path

    def client(self, *, address: str = "127.0.0.1", tls: bool = False, ipv6: bool = False) -> httpx.AsyncClient:
        """A client that comes from this address of the loopback."""
        context = ssl.create_default_context(cafile=str(self.directory / "certificate.pem"))
        host = "[::1]" if ipv6 else "127.0.0.1"
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.tls_port}" if tls else f"http://{host}:{self.port}",
            transport=httpx.AsyncHTTPTransport(verify=context, local_address=None if ipv6 else address),
            timeout=30,
        )


@asynccontextmanager
async def edge(directory: Path, *, apis: Sequence[int], trusted: str) -> AsyncIterator[Edge]:
    """nginx with the shipped configuration before APIs at these ports of the loopback, and TLS before it.

    `trusted` is what SHOP_TRUSTED_PROXIES says.
    """
    found = Edge(unused_port(), unused_port(), directory)
    _make_certificate(directory)
    (directory / "terminator.conf").write_text(
        f"pid {directory}/terminator.pid;\n{_user()}"
        + TERMINATOR_CONFIG.format(
            paths=_paths(directory),
            port=found.tls_port,
            directory=directory,
            address=TERMINATOR,
            behind=found.port,
        )
    )
    (directory / "nginx.conf").write_text(rendered(directory, port=found.port, apis=apis, trusted=trusted))
    async with _running(directory, "nginx", found.port), _running(directory, "terminator", found.tls_port):
        yield found


def trust(directory: Path, trusted: str) -> "subprocess.CompletedProcess[str]":
    """Run what the container runs before nginx starts."""
    script = str(ROOT / "deploy" / "trusted-proxies.sh")
    environment = {"PATH": os.environ["PATH"], "SHOP_TRUSTED_PROXIES": trusted}
    return subprocess.run(
        [script, str(directory / "trusted-proxies.conf")], env=environment, capture_output=True, text=True
    )


def rendered(directory: Path, *, port: int, apis: Sequence[int], trusted: str) -> str:
    """The shipped configuration as compose mounts it, with the names and paths of containers replaced."""
    said = trust(directory, trusted)
    assert said.returncode == 0, said.stderr
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for old, new in {
        "worker_processes auto;": f"worker_processes 1; {_user()}",
        "/tmp/nginx.pid": f"{directory}/nginx.pid",  # noqa: S108 - of the container
        "/dev/stderr": f"{directory}/error.log",
        "/dev/stdout": f"{directory}/access.log",
        "/etc/nginx/trusted-proxies": f"{directory}/trusted-proxies",
        "http {": f"http {{ {_paths(directory)}",
        "/var/cache/nginx/pages": f"{directory}/pages",
        "listen 8080": f"listen 127.0.0.1:{port}",
        "listen [::]:8080": f"listen [::1]:{port}",
        "api-1:8000": f"127.0.0.1:{apis[0]}",
        "api-2:8000": f"127.0.0.1:{apis[-1]}",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def _user() -> str:
    return "user root;" if os.geteuid() == 0 else ""


def _paths(directory: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)


@asynccontextmanager
async def _running(directory: Path, name: str, port: int) -> AsyncIterator[None]:
    log = directory / f"{name}.start.log"
    process = _start(directory, name, log)

    async def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await wait_until(answers, reason=f"{name} listens")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(END_SECONDS)


def _start(directory: Path, name: str, log: Path) -> "subprocess.Popen[bytes]":
    command = [str(NGINX), "-c", str(directory / f"{name}.conf"), "-e", str(log), "-g", "daemon off;"]
    return run_beside(command, environment=os.environ, output=subprocess.DEVNULL)


def _make_certificate(directory: Path) -> None:
    """A certificate of its own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
