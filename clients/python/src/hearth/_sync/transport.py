"""One daemon's requests and answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx

from .._json import parse, query
from .._target import ANSWER, Target
from .._translate import translated, translated_websocket
from ..errors import BadAnswerError, ConnectFailedError, refused
from .driver import Content, HttpClient, Lock, WebSocket, blocking, open_http, open_websocket, pieces

T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Download:
    """Bytes that come, to be iterated over once or read whole. Leaving its context, or closing it, gives up what has not come."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.headers = response.headers

    def __enter__(self) -> Download:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        with translated():
            for piece in self._response.iter_bytes():
                yield piece

    def read(self) -> bytes:
        """Waits for all the rest."""
        with self:
            return b"".join([piece for piece in self])

    def lines(self) -> Iterator[bytes]:
        """The lines, without their newlines."""
        rest = b""
        for piece in self:
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line
        if rest:
            yield rest

    def close(self) -> None:
        with translated():
            self._response.close()


class Transport:
    """Sends requests to one daemon. One that is `among` others has a single connection, which lives as long as it does."""

    def __init__(self, target: Target, *, among: set[Transport] | None = None) -> None:
        self.target = target
        self._among = among
        if among is not None:
            among.add(self)
        self._http: HttpClient | None = None
        self._opening = Lock()

    def close(self) -> None:
        if self._among is not None:
            self._among.discard(self)
        http, self._http = self._http, None
        if http is not None:
            with translated():
                http.close()

    def _client(self) -> HttpClient:
        with self._opening:
            if self._http is None:
                # Whose daemon it is, is looked at before anything is said.
                blocking(self.target.reach)
                self._http = open_http(self.target, keep=self._among is not None)
            return self._http

    def send(
        self,
        method: Method,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Asks, and returns the answer, its body still to come, if it is a success."""
        http = self._client()
        request = http.build_request(
            method,
            path,
            params=query,
            json=body,
            content=None if content is None else _body(content),
            headers=headers,
        )
        with translated():
            try:
                response = http.send(request, stream=True)
            except httpx.ConnectError:
                if self._among is not None or self.target.program is None:
                    raise
                # Nothing was sent. The daemon has ended; the next one takes over what it held.
                blocking(self.target.reach)
                response = http.send(request, stream=True)
        if response.is_success:
            return response
        with Download(response) as answer:
            raise refused(whole(answer), response.status_code)

    def download(self, method: Method, path: str, **options: Any) -> Download:
        return Download(self.send(method, path, **options))

    def fetch(self, method: Method, path: str, **options: Any) -> bytes:
        with self.download(method, path, **options) as answer:
            return whole(answer)

    def ask(self, kind: type[T], method: Method, path: str, **options: Any) -> T:
        """Asks, and reads a JSON answer."""
        return parse(kind, self.fetch(method, path, **options))

    def websocket(self, path: str, options: Mapping[str, Any]) -> WebSocket:
        asked = httpx.QueryParams(query(options))
        path = f"{path}?{asked}" if asked else path
        with translated_websocket():
            with contextlib.suppress(ConnectFailedError):
                return open_websocket(self.target, path)
            # Nothing was sent.
            blocking(self.target.reach)
            return open_websocket(self.target, path)


def _body(content: Content) -> bytes | Iterator[bytes]:
    return bytes(content) if isinstance(content, (bytes, bytearray, memoryview)) else pieces(content)


def whole(answer: Download) -> bytes:
    """All of an answer that has a bound."""
    read = bytearray()
    for piece in answer:
        read += piece
        if len(read) > ANSWER:
            raise BadAnswerError(f"the daemon's answer is longer than {ANSWER} bytes")
    return bytes(read)
