"""Shells of a guest: programs on a terminal that have a name and outlive whoever talks to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from .._json import plain, query, segment
from ..models import ExitStatus, OutputPiece, Screen, ShellInfo, ShellList, ShellOpened, ShellRest, SignalScope, Written
from ..options import ShellOptions
from .processes import output_piece
from .transport import Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Shells:
    """The shells of a sandbox."""

    def __init__(self, transport: Transport, sandbox: str) -> None:
        self._transport = transport
        self._sandbox = sandbox

    def open(self, name: str, **options: Unpack[ShellOptions]) -> Shell:
        """Starts a shell."""
        body = plain({"name": name, **options})
        opened = self._transport.ask(ShellOpened, "POST", f"{self._sandbox}/shells", body=body)
        return Shell(self._transport, self._sandbox, name, opened)

    def list(self) -> Sequence[ShellInfo]:
        """The shells that were not closed."""
        return (self._transport.ask(ShellList, "GET", f"{self._sandbox}/shells")).shells

    def get(self, name: str) -> Shell:
        """Names a shell that is there."""
        return Shell(self._transport, self._sandbox, name)


class Shell:
    """A shell."""

    def __init__(self, transport: Transport, sandbox: str, name: str, opened: ShellOpened | None = None) -> None:
        self._transport = transport
        self.name = name
        #: What it is as a process, where this has opened it.
        self.opened = opened
        self._path = f"{sandbox}/shells/{segment(name)}"

    def write(self, text: str | bytes, *, newline: bool = False, wait_ms: int | None = None) -> int:
        """Types, and says how many bytes were taken: all, unless the job in the foreground does not read."""
        asked = query({"newline": newline or None, "wait_ms": wait_ms})
        content = text.encode() if isinstance(text, str) else text
        return (
            self._transport.ask(Written, "POST", f"{self._path}/input", query=asked, content=content)
        ).accepted

    def wait(
        self,
        *,
        until: Literal["quiet", "prompt"] = "quiet",
        quiet_ms: int | None = None,
        timeout_ms: int | None = None,
    ) -> ShellRest:
        """Waits until it has nothing more to say for now, or shows its prompt."""
        body = plain({"until": until, "quiet_ms": quiet_ms, "timeout_ms": timeout_ms})
        return self._transport.ask(ShellRest, "POST", f"{self._path}/wait", body=body)

    def output(self, *, start: int = 0, limit: int | None = None, wait_ms: int | None = None) -> OutputPiece:
        """A piece of what was written to its terminal, byte for byte, from the byte `start` on."""
        asked = query({"from": start, "limit": limit, "wait_ms": wait_ms})
        return output_piece(self._transport, f"{self._path}/output", asked)

    def screen(self, *, since: int | None = None, limit: int | None = None, wait_ms: int | None = None) -> Screen:
        """The lines of its screen that have changed since an earlier read's `next`, as text."""
        asked = query({"since": since, "limit": limit, "wait_ms": wait_ms})
        return self._transport.ask(Screen, "GET", f"{self._path}/screen", query=asked)

    def signal(self, signal: str | int, scope: SignalScope = "foreground") -> None:
        """Sends a signal, by default to the job in its foreground."""
        self._transport.fetch("POST", f"{self._path}/signal", body=plain({"signal": signal, "scope": scope}))

    def resize(self, columns: int, rows: int) -> None:
        self._transport.fetch("POST", f"{self._path}/resize", body={"columns": columns, "rows": rows})

    def close(self, *, grace_ms: int | None = None) -> ExitStatus:
        """Ends it and all it has started: HUP, a grace, KILL."""
        return self._transport.ask(ExitStatus, "DELETE", self._path, query=query({"grace_ms": grace_ms}))
