"""What differs between the two clients beyond `async` and `await`: locks, threads, connections, and bodies that are sent."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import IO, TypeVar, Union
from urllib.parse import urlsplit

import httpx
import websockets.sync.client

from .._daemon import connected
from .._target import MESSAGE, Target
from .._tls import shared

T = TypeVar("T")
#: Pieces of bytes, or a binary file.
Stream = Union[IO[bytes], Iterable[bytes]]
#: What can be sent as a body.
Content = Union[bytes, bytearray, memoryview, Stream]
HttpClient = httpx.Client
WebSocket = websockets.sync.client.ClientConnection
Lock = threading.Lock
#: What is read from a file at once, in bytes.
PIECE = 256 * 1024


def blocking(work: Callable[[], T]) -> T:
    """Does what may block."""
    return work()


def open_http(target: Target, *, keep: bool) -> HttpClient:
    """Makes a client; `keep` keeps its one connection for as long as it lives."""
    if keep:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
    else:
        # On this machine connections cost nothing, and one that is not kept cannot have ended unseen.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0 if target.socket else 8)
    uds = str(target.socket) if target.socket else None
    return httpx.Client(
        base_url=target.base_url,
        headers=target.headers,
        timeout=httpx.Timeout(target.answer_timeout_seconds, connect=target.connect_timeout_seconds),
        transport=httpx.HTTPTransport(uds=uds, limits=limits, verify=target.trust),
    )


def open_websocket(target: Target, path: str) -> WebSocket:
    client = websockets.sync.client
    context = target.tls
    if target.socket:
        sock: socket.socket | None = connected(target.socket)
    else:
        sock = _encrypted(target, context) if context else None
    connect = partial(client.unix_connect, None) if target.socket else client.connect
    # It is closed by whoever holds it. What is encrypted already is to be encrypted by nobody else.
    return connect(
        target.websocket_url.replace("wss:", "ws:", 1) + path,
        sock=sock,
        additional_headers=target.headers,
        compression=None,
        proxy=None,
        open_timeout=target.connect_timeout_seconds,
        ping_interval=None,
        max_size=MESSAGE,
    ).__enter__()


def _encrypted(target: Target, context: ssl.SSLContext) -> socket.socket:
    url = urlsplit(target.base_url)
    plain = socket.create_connection((url.hostname or "", url.port or 443), target.connect_timeout_seconds)
    try:
        return shared(context.wrap_socket(plain, server_hostname=url.hostname))
    except BaseException:
        plain.close()
        raise


def pieces(content: Stream) -> Iterator[bytes]:
    """The pieces of a body that is not there as a whole."""
    file = content
    if hasattr(file, "read"):
        content = iter(lambda: file.read(PIECE), b"")
    yield from content
