"""A program that is held over a WebSocket: its output as it comes, its input, signals, its end."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Callable, Mapping
from types import TracebackType
from typing import Any

from .._json import plain, read
from .._translate import translated_websocket
from ..errors import BadAnswerError, ConnectionLostError, HearthError, api_error
from ..models import Dropped, ExitStatus, Output, OutputTotals, SandboxInfo, SignalScope, StreamName
from .driver import Lock, WebSocket

_STDIN = b"\0"
_STREAMS: dict[int, StreamName] = {1: "stdout", 2: "stderr"}
#: The bytes of input that the daemon holds at most; what goes beyond them waits here.
_WINDOW = 1024 * 1024
#: What one message carries.
_PIECE = 64 * 1024


class Held:
    """A program that is held. Iterating over it gives its output as it comes, until it has ended.

    It may be written to, signalled and iterated over from several tasks or threads at once. Leaving its context before its end lets go of it:
    the program runs on, and `Process.attach` follows it again, from `positions` on if nothing is to come twice.
    """

    def __init__(self, socket: WebSocket, positions: dict[StreamName, int] | None = None) -> None:
        self._socket = socket
        #: Held by whoever waits for the next message.
        self._turn = Lock()
        self._sending = Lock()
        self._pieces: deque[Output | Dropped] = deque()
        self._sent = 0
        self._taken = 0
        #: Whether all of the input was sent, and has been taken.
        self._closed = self._taken_end = False
        self._failure: HearthError | None = None
        #: Its id, once it runs.
        self.process: int = 0
        self.pid: int = 0
        #: The sandbox that a run has made for it.
        self.sandbox: SandboxInfo | None = None
        #: How it ended, and the length of its streams, once it has.
        self.status: ExitStatus | None = None
        self.totals: OutputTotals | None = None
        #: The first byte of each stream that has not been given out yet.
        self.positions: dict[StreamName, int] = {"stdout": 0, "stderr": 0, **(positions or {})}

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the program, which runs on; one that `run` has started ends with its sandbox."""
        with translated_websocket():
            self._socket.close()

    def begin(self, request: Mapping[str, Any] | None = None) -> Held:
        """Asks for it, unless it is there already, and waits until it runs."""
        try:
            if request is not None:
                with translated_websocket():
                    self._socket.send(json.dumps(plain(request)))
            self._receive(lambda: bool(self.process))
        except BaseException:
            self.close()
            raise
        return self

    def __iter__(self) -> Iterator[Output | Dropped]:
        while True:
            self._receive(lambda: bool(self._pieces) or self.status is not None)
            # Another reader may have taken it.
            if self._pieces:
                piece = self._pieces.popleft()
                self.positions[piece.stream] += len(piece.data) if isinstance(piece, Output) else piece.bytes
                yield piece
            elif self.status is not None:
                return

    def wait(self) -> ExitStatus:
        """Waits for its end, and passes over its output."""
        for _ in self:
            pass
        assert self.status is not None, "what it has said ends with how it ended"
        return self.status

    def write(self, data: bytes) -> None:
        """Gives it input, and waits while it does not take it. What it writes meanwhile is kept here; once it has ended, input is for nobody."""
        with self._sending:
            for begin in range(0, len(data), _PIECE):
                piece = data[begin : begin + _PIECE]
                self._receive(lambda: self._sent + len(piece) - self._taken <= _WINDOW or self.status is not None)
                if self.status is not None:
                    return
                self._sent += len(piece)
                self._send(_STDIN + piece)

    def close_stdin(self) -> None:
        """Says that this was all of its input."""
        with self._sending:
            self._send(json.dumps({"type": "close_stdin"}))
            self._closed = True

    def drain(self) -> None:
        """Waits until all input that it was given, and its end, reaches it even when it is let go of."""
        # One that takes no more has an end of its own.
        self._receive(
            lambda: (
                self._taken_end or (self._taken == self._sent and not self._closed) or self.status is not None
            )
        )

    def resize(self, columns: int, rows: int) -> None:
        """Gives its terminal another size."""
        self._send(json.dumps({"type": "resize", "size": {"columns": columns, "rows": rows}}))

    def signal(self, signal: str | int, scope: SignalScope = "process") -> None:
        """Sends a signal to it, to all it has started, or to the job in the foreground of its terminal."""
        self._send(json.dumps({"type": "signal", "signal": signal, "scope": scope}))

    def _send(self, message: str | bytes) -> None:
        if self.status is not None:
            return
        try:
            with translated_websocket():
                self._socket.send(message)
        except ConnectionLostError:
            # It may have ended just now: then its end is on the way, and else the reason.
            self._receive(lambda: self.status is not None)

    def _receive(self, is_enough: Callable[[], bool]) -> None:
        """Takes messages until something is so. Whoever has the turn takes them for all."""
        while not is_enough():
            with self._turn:
                if is_enough():
                    return
                if self._failure is not None:
                    raise self._failure
                try:
                    with translated_websocket():
                        message = self._socket.recv()
                    self._take(message)
                except HearthError as error:
                    self._failure = error
                    raise

    def _take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            stream = _STREAMS.get(message[0]) if message else None
            if stream is None:
                raise BadAnswerError("the daemon's answer cannot be read: a message of no stream")
            self._pieces.append(Output(stream, message[1:]))
            return
        try:
            said = json.loads(message)
        except ValueError as error:
            raise BadAnswerError(f"the daemon's answer cannot be read: {error}") from error
        kind = said.get("type") if isinstance(said, dict) else None
        if kind == "error":
            raise api_error(said.get("error"))
        if kind == "ready":
            self.sandbox = read(SandboxInfo, said.get("sandbox"))
        elif kind == "started":
            self.process, self.pid = read(int, said.get("process")), read(int, said.get("pid"))
        elif kind == "taken":
            self._taken, self._taken_end = read(int, said.get("bytes")), read(bool, said.get("end"))
        elif kind == "dropped":
            self._pieces.append(read(Dropped, said))
        elif kind == "exit":
            self.totals = read(OutputTotals, said.get("output"))
            self.status = read(ExitStatus, said.get("status"))
