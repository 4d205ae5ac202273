"""One client's connection through a proxy, and the one that is made for it to the server."""

import asyncio
import socket
import struct
from pathlib import Path

from loadtests.chaos.network import BOTH, Cut, Delay, LoseReply, LoseRequest, Mode, Network, Pass, Trickle, Way

CHUNK_BYTES = 64 * 1024  # also what is buffered on each way before its sender is held up
CONNECT_SECONDS = 5.0
TRICKLE_STEP_SECONDS = 0.02

Address = Path | tuple[str, int]


class Connection:
    """Carries both ways, each chunk by the mode that is then in force."""

    def __init__(self, network: Network, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._network = network
        self._reader = reader
        self._writers = [writer]
        self._lost: frozenset[Way] = frozenset()
        self._reset_by_reply = False
        # Since this mode is in force: what `Cut` counts, and what may be the beginning of a marker.
        self._mode: Mode = Pass()
        self._carried_bytes = 0
        self._tail = b""

    async def run(self, server: Address) -> None:
        """Connect to the server, and carry both ways until both have ended or one is broken."""
        pumps: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await _connected(server)
            self._writers.append(writer)
            for each in self._writers:
                each.transport.set_write_buffer_limits(high=CHUNK_BYTES)
            pumps += [
                asyncio.create_task(self._pump(Way.TO_SERVER, self._reader, writer)),
                asyncio.create_task(self._pump(Way.TO_CLIENT, reader, self._writers[0])),
            ]
            await asyncio.gather(*pumps)
            for each in self._writers:
                each.close()
                await each.wait_closed()
        except OSError:
            self.reset()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in self._writers:
                each.transport.abort()

    def reset(self) -> None:
        """End both connections at once and without order; on a Unix socket there is no reset, and it just ends."""
        for writer in self._writers:
            end = writer.get_extra_info("socket")
            # One that is closed has no socket any more, depending on the loop.
            if end is not None and end.family != socket.AF_UNIX and not writer.is_closing():
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._carry(way, data, writer)
        await self._network.passable(way)
        # A client that is to wait in vain does not hear that its server has gone.
        if not writer.is_closing() and not (way is Way.TO_CLIENT and way in self._lost):
            writer.write_eof()

    async def _carry(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        mode = await self._network.passable(way)
        if mode is not self._mode:
            self._mode, self._carried_bytes, self._tail = mode, 0, b""
        if way in self._lost:
            if self._reset_by_reply:
                raise ConnectionResetError
            return
        match mode:
            case Delay():
                await asyncio.sleep(self._network.delay_seconds(mode))
                await self._network.passable(way)
            case Trickle():
                data = await self._trickle(way, data, writer)
            case Cut(after_bytes, cut_way) if way is cut_way:
                await self._cut(data, after_bytes, writer)
            case LoseRequest(marker) if way is Way.TO_SERVER and self._ends(marker, data):
                self._lost = BOTH
                self._network.count_injection()
                return
            case LoseReply(marker, reset) if way is Way.TO_SERVER and self._ends(marker, data):
                self._lost, self._reset_by_reply = frozenset({Way.TO_CLIENT}), reset
                self._network.count_injection()
        await _send(writer, data)

    async def _trickle(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> bytes:
        """Carry a chunk in small steps as long as the mode says so; returns what is left of it then."""
        while data and isinstance(mode := await self._network.passable(way), Trickle):
            step = max(1, int(mode.bytes_per_second * TRICKLE_STEP_SECONDS))
            await asyncio.sleep(step / mode.bytes_per_second)
            await _send(writer, data[:step])
            data = data[step:]
        return data

    async def _cut(self, data: bytes, after_bytes: int, writer: asyncio.StreamWriter) -> None:
        left = after_bytes - self._carried_bytes
        self._carried_bytes += len(data)
        if len(data) >= left:
            await _send(writer, data[:left])
            self._network.count_injection()
            raise ConnectionResetError

    def _ends(self, marker: bytes, data: bytes) -> bool:
        """Whether a marker that began since the mode is in force ends in this chunk; it may come in pieces."""
        seen = self._tail + data
        self._tail = seen[-(len(marker) - 1) :] if len(marker) > 1 else b""
        return marker in seen


async def _connected(server: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(server, Path):
        return await asyncio.open_unix_connection(server, limit=CHUNK_BYTES)
    return await asyncio.open_connection(*server, limit=CHUNK_BYTES)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise ConnectionResetError
    writer.write(data)
    await writer.drain()
