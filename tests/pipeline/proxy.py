"""A proxy that loses what a network may lose, at the worst moment."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from shop.redis import script


class LossyProxy:
    """Stands between a shop and its Valkey, and loses one exchange of a script when it is told to."""

    def __init__(self, target: Path, path: Path) -> None:
        self.url = f"unix://{path}"
        self.lost = 0
        self._target = target
        self._sha: bytes | None = None
        self._reply_only = False

    def lose(self, name: str, *, reply_only: bool) -> None:
        """Lose the next call of this script, or only its reply: then it is executed and nobody learns of it."""
        self._sha, self._reply_only = script(name).sha.encode(), reply_only

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one client says and what it is answered."""
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._target)
        deaf = asyncio.Event()

        async def answers() -> None:
            while data := await upstream_reader.read(65536):
                if not deaf.is_set():
                    writer.write(data)

        answering = asyncio.create_task(answers())
        try:
            while data := await reader.read(65536):
                if self._sha is not None and self._sha in data:
                    self._sha, self.lost = None, self.lost + 1
                    deaf.set()
                    if not self._reply_only:
                        continue
                upstream_writer.write(data)
        except ConnectionError:
            pass
        finally:
            answering.cancel()
            upstream_writer.close()
            writer.close()


@asynccontextmanager
async def lossy_proxy(redis_url: str) -> AsyncIterator[LossyProxy]:
    """A proxy for the Valkey at this URL."""
    directory = Path(tempfile.mkdtemp(prefix="shop-proxy-"))
    parts = urlsplit(redis_url)
    proxy = LossyProxy(Path(parts.path), directory / "valkey.sock")
    server = await asyncio.start_unix_server(proxy.serve, directory / "valkey.sock")
    proxy.url += f"?{parts.query}" if parts.query else ""
    try:
        yield proxy
    finally:
        server.close()
        shutil.rmtree(directory)
