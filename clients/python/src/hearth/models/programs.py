"""Programs: what they may use, how they end, what they write."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, TypeVar

from .._json import read_fields
from ..errors import BadAnswerError, ProgramFailedError
from .words import RawString, StreamName


_R = TypeVar("_R", bound="Result")


def _decoded(encoding: Any, data: Any, at: str) -> bytes:
    if isinstance(data, str):
        if encoding == "utf-8":
            return data.encode()
        if encoding == "base64":
            try:
                return base64.b64decode(data, validate=True)
            except binascii.Error:
                pass
    raise BadAnswerError(f"the daemon's answer cannot be read: {at} is not in its encoding")


@dataclass(frozen=True, kw_only=True)
class ResourceLimits:
    """What a program and all it starts may use."""

    memory_bytes: int | None = None
    pids: int | None = None
    #: In hundredths of one processor.
    cpu_percent: int | None = None


@dataclass(frozen=True)
class PtySize:
    columns: int
    rows: int


@dataclass(frozen=True)
class Captured:
    """What a program wrote to one stream: all of it, or its beginning and its end."""

    data: bytes
    #: How many bytes are not in `data`.
    dropped_bytes: int = 0
    #: How many bytes of `data` stand before those that were dropped, when some were.
    dropped_after: int | None = None

    @property
    def text(self) -> str:
        """The bytes as text; what is no UTF-8 is replaced."""
        return self.data.decode(errors="replace")

    @classmethod
    def from_json(cls, value: dict[str, Any], at: str) -> Captured:
        data = _decoded(value.get("encoding"), value.get("data"), at)
        return read_fields(cls, {**value, "data": data}, at)


@dataclass(frozen=True, kw_only=True)
class ExitStatus:
    """How a program ended: with a code, or by a signal."""

    code: int | None = None
    signal: int | None = None
    timed_out: bool
    out_of_memory: bool
    duration_us: int
    cpu_us: int
    peak_memory_bytes: int | None = None

    @property
    def exit_code(self) -> int:
        """What a shell would report: 128 + n for signal n."""
        if self.code is not None:
            return self.code
        return 255 if self.signal is None else 128 + self.signal


@dataclass(frozen=True, kw_only=True)
class Result(ExitStatus):
    """How a program has ended, and what it wrote."""

    stdout: Captured
    stderr: Captured

    def check(self: _R) -> _R:
        """Returns this if the program succeeded.

        Raises `ProgramFailedError`.
        """
        if self.exit_code == 0 and not self.timed_out:
            return self
        why = "its time was over" if self.timed_out else f"exit code {self.exit_code}"
        last = self.stderr.text.strip().splitlines()[-1:] or self.stdout.text.strip().splitlines()[-1:]
        raise ProgramFailedError(": ".join([f"the program failed, {why}", *map(ascii, last)]), self)


@dataclass(frozen=True, kw_only=True)
class ExecResult(Result):
    """How a program that was run has ended, and what it wrote."""

    process: int


@dataclass(frozen=True, kw_only=True)
class InstallResult(Result):
    """How an installer of packages has ended, and what it said."""


@dataclass(frozen=True)
class OutputTotals:
    """The length of each output stream in bytes, and what of it is no longer kept."""

    stdout: int
    stderr: int
    stdout_dropped: int = 0
    stderr_dropped: int = 0


@dataclass(frozen=True)
class Command:
    """What runs: a program with its arguments, or a text for a shell. Cut where it is long."""

    argv: list[RawString] | None = None
    shell: RawString | None = None


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """A program that the guest's agent knows."""

    process: int
    pid: int
    tag: str | None = None
    command: Command
    #: How it ended; none while it runs.
    exit: ExitStatus | None = None
    #: Whether it runs and only waits for more to do: a kernel without code, or a shell at its prompt.
    waiting: bool = False
    #: How many processes run that it has left behind when it exited.
    left_running: int = 0
    output: OutputTotals

    @classmethod
    def from_json(cls, value: dict[str, Any], at: str) -> ProcessInfo:
        state = value.get("state")
        ended = state.get("exited") if isinstance(state, dict) else None
        return read_fields(cls, {**value, "exit": ended}, at)


@dataclass(frozen=True)
class ProcessList:
    processes: list[ProcessInfo]


@dataclass(frozen=True)
class ProcessStarted:
    process: int
    pid: int


@dataclass(frozen=True)
class OutputPiece:
    """A piece of a stream that is kept. What lies between `at` and the position that was asked for was dropped."""

    at: int
    data: bytes
    #: The length of the stream so far.
    total: int
    #: Whether nothing lies behind `data`, nor ever will.
    ended: bool

    @property
    def next(self) -> int:
        """Where the next piece begins."""
        return self.at + len(self.data)


@dataclass(frozen=True)
class Written:
    """How many bytes of input were taken."""

    accepted: int


@dataclass(frozen=True)
class Output:
    """Bytes that a held program wrote."""

    stream: StreamName
    data: bytes


@dataclass(frozen=True)
class Dropped:
    """Bytes of a stream that are lost, between what came before and what comes next."""

    stream: StreamName
    bytes: int
