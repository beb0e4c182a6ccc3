"""What differs between the two clients beyond `async` and `await`: locks, threads, connections, and bodies that are sent."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import IO, TypeVar, Union

import httpx
import websockets.asyncio.client

from .._daemon import connected
from .._target import MESSAGE, Target

T = TypeVar("T")
#: Pieces of bytes, or a binary file.
Stream = Union[IO[bytes], Iterable[bytes], AsyncIterable[bytes]]
#: What can be sent as a body.
Content = Union[bytes, bytearray, memoryview, Stream]
HttpClient = httpx.AsyncClient
WebSocket = websockets.asyncio.client.ClientConnection
Lock = asyncio.Lock
#: What is read from a file at once, in bytes.
PIECE = 256 * 1024


async def blocking(work: Callable[[], T]) -> T:
    """Does what may block without holding up the loop."""
    return await asyncio.to_thread(work)


def open_http(target: Target, *, keep: bool) -> HttpClient:
    """Makes a client; `keep` keeps its one connection for as long as it lives."""
    if keep:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
    else:
        # On this machine connections cost nothing, and one that is not kept cannot have ended unseen.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0 if target.socket else 8)
    uds = str(target.socket) if target.socket else None
    return httpx.AsyncClient(
        base_url=target.base_url,
        headers=target.headers,
        timeout=httpx.Timeout(target.answer_timeout_seconds, connect=target.connect_timeout_seconds),
        transport=httpx.AsyncHTTPTransport(uds=uds, limits=limits, verify=target.trust),
    )


async def open_websocket(target: Target, path: str) -> WebSocket:
    path_of_daemon = target.socket
    socket = await blocking(lambda: connected(path_of_daemon)) if path_of_daemon else None
    tls = await blocking(lambda: target.tls)
    client = websockets.asyncio.client
    connect = partial(client.unix_connect, None) if socket else client.connect
    # It is closed by whoever holds it.
    return await connect(
        target.websocket_url + path,
        sock=socket,
        ssl=tls,
        additional_headers=target.headers,
        compression=None,
        proxy=None,
        open_timeout=target.connect_timeout_seconds,
        ping_interval=None,
        max_size=MESSAGE,
    ).__aenter__()


async def pieces(content: Stream) -> AsyncIterator[bytes]:
    """The pieces of a body that is not there as a whole."""
    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
        return
    file = content
    if hasattr(file, "read"):
        content = iter(lambda: file.read(PIECE), b"")
    pending: Iterator[bytes] = iter(content)

    def take() -> list[bytes]:
        return list(itertools.islice(pending, 1))

    # A file, or whatever makes the pieces, may take its time.
    while taken := await blocking(take):
        yield taken[0]
