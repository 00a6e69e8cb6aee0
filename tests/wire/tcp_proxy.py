"""A line of bytes that can be cut, mended, reset and slowed: between the gateway and Postgres, or the gateway and modules."""

import asyncio
import socket
import struct
from urllib.parse import urlsplit, urlunsplit


class Line:
    """A TCP proxy in front of the server of a URL or DSN.

    `cut` stops all bytes and closes nothing; `refuse` turns new connections away; `reset` breaks those that stand;
    `drop_answer` breaks the connection on which certain bytes were sent, when their answer comes; `slow` delays every answer.
    """

    def __init__(self, dsn: str) -> None:
        self.behind = dsn
        self._to = urlsplit(dsn)
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._refused = False
        self._marker = b""
        self._dropping = 0
        self._skip = 0
        self.delay = 0.0
        self.dropped = asyncio.Event()
        """Set when an answer was dropped."""
        self.refused = asyncio.Event()
        """Set when a connection was turned away."""
        self.dsn = ""

    async def start(self) -> "Line":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user, at, _ = self._to.netloc.rpartition("@")
        self.dsn = urlunsplit(self._to._replace(netloc=f"{user}{at}127.0.0.1:{port}"))
        return self

    def cut(self) -> None:
        """Nothing is closed, nothing comes through."""
        self._open.clear()

    def mend(self) -> None:
        """As it was at first."""
        self._refused, self.delay, self._dropping = False, 0.0, 0
        self._open.set()

    def refuse(self) -> None:
        """New connections are reset at once; those that stand are, too."""
        self._refused = True
        self.reset()

    def reset(self) -> None:
        """Break all that stand."""
        for writer in list(self._writers):
            _reset(writer)

    def drop_answer(self, marker: bytes, *, times: int = 1, skip: int = 0) -> None:
        """Forward what contains the marker, and break its connection when the answer comes; `skip` of them pass before."""
        self._marker, self._dropping, self._skip = marker, times, skip
        self.dropped.clear()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            if self._refused:
                self.refused.set()
                return
            await self._open.wait()
            there, to = await asyncio.open_connection(self._to.hostname, self._to.port)
            writers.append(to)
            self._writers.update(writers)
            doomed = asyncio.Event()
            await asyncio.gather(self._pass_on(reader, to, asked=doomed), self._pass_on(there, writer, answers=doomed))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.difference_update(writers)
            for each in writers:
                _reset(each)

    async def _pass_on(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        *,
        asked: asyncio.Event | None = None,
        answers: asyncio.Event | None = None,
    ) -> None:
        while data := await source.read(65_536):
            await self._open.wait()
            if asked is not None and self._dropping and self._marker in data:
                if self._skip:
                    self._skip -= 1
                else:
                    self._dropping -= 1
                    asked.set()
            if answers is not None:
                if answers.is_set():
                    self.dropped.set()
                    raise ConnectionResetError
                if self.delay:
                    await asyncio.sleep(self.delay)
            target.write(data)
            await target.drain()
        await self._open.wait()
        target.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None and not writer.is_closing():
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
