"""Kernels, and what code in them does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ProgramFailedError


@dataclass(frozen=True, kw_only=True)
class KernelInfo:
    name: str
    language: Literal["python", "bash", "javascript", "unknown"]
    state: Literal["idle", "busy", "ended", "unknown"]
    process: int | None = None
    execs: int
    warmed: bool = False
    #: Of a kernel that was just started: the imports that failed, with the reason.
    failed_imports: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelList:
    kernels: list[KernelInfo]


@dataclass(frozen=True)
class KernelValue:
    """The value of the last expression (`result`), or something shown on the way (`display`), by media type."""

    type: Literal["result", "display"]
    data: dict[str, Any]
    #: The sizes of forms that were too large to send.
    omitted: dict[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Its plain form."""
        return str(self.data.get("text/plain", ""))


@dataclass(frozen=True)
class KernelError:
    """The error that ended the code."""

    name: str
    value: str
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class KernelRan:
    """How code ended."""

    kernel: str
    code: int
    signal: int | None = None
    error: KernelError | None = None
    interrupted: bool = False
    timed_out: bool = False
    #: Whether it was killed for want of memory.
    out_of_memory: bool = False
    #: Whether it began in a fresh interpreter.
    fresh: bool = False
    #: Whether the interpreter's state is gone with it.
    state_lost: bool = False
    dropped: int = 0
    duration_us: int


@dataclass(frozen=True, kw_only=True)
class KernelOutcome:
    """All that came of some code."""

    stdout: bytes
    stderr: bytes
    result: KernelValue | None
    displays: list[KernelValue]
    error: KernelError | None
    ran: KernelRan

    def check(self) -> KernelOutcome:
        """Returns this if the code went well.

        Raises `ProgramFailedError`.
        """
        if self.ran.code == 0 and not self.ran.timed_out:
            return self
        why = f"{self.error.name}: {self.error.value}" if self.error else f"exit code {self.ran.code}"
        raise ProgramFailedError(f"the code failed, {ascii(why)}", self)
