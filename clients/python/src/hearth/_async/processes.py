"""A program of a guest, whoever has started it."""

from __future__ import annotations

from .._json import plain, query, segment
from ..models import Delivery, OutputPiece, ProcessInfo, ProcessList, SignalScope, StreamName, Written
from .driver import Content
from .held import AsyncHeld
from .transport import AsyncTransport, whole


class AsyncProcess:
    """Names a program by its id or its tag."""

    def __init__(self, transport: AsyncTransport, sandbox: str, reference: int | str) -> None:
        self._transport = transport
        self._sandbox = sandbox
        self.reference = reference
        self._path = f"{sandbox}/processes/{segment(reference)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.reference!r}>"

    async def inspect(self) -> ProcessInfo | None:
        """What the guest's agent knows of it; `None` where that is nothing (any more)."""
        processes = (await self._transport.ask(ProcessList, "GET", f"{self._sandbox}/processes")).processes
        mine = [process for process in processes if self.reference in (process.process, process.tag)]
        # Of those that have ended a tag names the newest.
        running = [process for process in mine if process.exit is None]
        best = running or mine
        return best[-1] if best else None

    async def output(
        self,
        stream: StreamName = "stdout",
        *,
        start: int = 0,
        limit: int | None = None,
        wait_ms: int | None = None,
    ) -> OutputPiece:
        """A piece of what it wrote, from the byte `start` on. `wait_ms` waits for the first byte or the end."""
        asked = query({"stream": stream, "from": start, "limit": limit, "wait_ms": wait_ms})
        return await output_piece(self._transport, f"{self._path}/output", asked)

    async def write(self, data: Content, *, close: bool = False, wait_ms: int | None = None) -> int:
        """Gives it input, and says how many bytes it has taken: all, unless it does not read. `close` says that this was all."""
        asked = query({"close": close or None, "wait_ms": wait_ms})
        return (await self._transport.ask(Written, "POST", f"{self._path}/input", query=asked, content=data)).accepted

    async def signal(self, signal: str | int, scope: SignalScope = "process") -> None:
        """Sends a signal to it, to all it has started, or to the job in the foreground of its terminal."""
        await self._transport.fetch("POST", f"{self._path}/signal", body=plain({"signal": signal, "scope": scope}))

    async def attach(self, *, stdout: int = 0, stderr: int = 0, delivery: Delivery | None = None) -> AsyncHeld:
        """Follows it, from these bytes of its streams on: what is kept, and what is yet to come."""
        asked = {"stdout": stdout, "stderr": stderr, "delivery": delivery}
        socket = await self._transport.websocket(f"/{self._path}/attach", asked)
        return await AsyncHeld(socket, {"stdout": stdout, "stderr": stderr}).begin()


async def output_piece(transport: AsyncTransport, path: str, asked: dict[str, str]) -> OutputPiece:
    """Reads a piece of a stream, with its place in it."""
    async with await transport.download("GET", path, query=asked) as answer:
        data, headers = await whole(answer), answer.headers
    return OutputPiece(
        at=int(headers.get("hearth-at", 0)),
        data=data,
        total=int(headers.get("hearth-total", 0)),
        ended=headers.get("hearth-ended") == "true",
    )
