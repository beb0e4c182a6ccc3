"""What sandboxes are, and what they are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .words import SandboxState


@dataclass(frozen=True)
class Idle:
    """What becomes of a sandbox that nobody uses and in which nothing runs."""

    action: Literal["pause", "remove"]
    after_seconds: int


@dataclass(frozen=True)
class Phase:
    """A phase of a sandbox's creation, and when it was reached, from the beginning."""

    name: str
    reached_us: int


@dataclass(frozen=True, kw_only=True)
class SandboxInfo:
    """A sandbox as it is."""

    id: str
    name: str | None
    state: SandboxState
    #: Why it is in that state, where there is more to say.
    reason: str | None = None
    since_unix_ms: int
    created_unix_ms: int
    expires_unix_ms: int | None = None
    idle: Idle | None = None
    #: What of its memory lies on disk while it is paused.
    saved_bytes: int | None = None
    labels: dict[str, str]
    image: str
    cpus: int
    memory_mib: int
    disk_mib: int | None = None
    #: What runs it, `kvm` or `tcg`, once it has run.
    accelerator: str | None = None
    board: str | None = None
    jail_warning: str | None = None
    failed_before: list[str] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)


@dataclass(frozen=True)
class SandboxList:
    sandboxes: list[SandboxInfo]


@dataclass(frozen=True)
class PausedSandbox:
    sandbox: SandboxInfo
    took_us: int


@dataclass(frozen=True)
class StoppedSandbox:
    sandbox: SandboxInfo
    took_us: int
    #: Why it did not end in order, if it did not: what was not on its disk by then is lost.
    unclean: str | None = None
    #: The secrets that it had, by their names: they have to be given again when it is started.
    lost_secrets: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ForkedSandboxes:
    sandboxes: list[SandboxInfo]
    #: For how long the source's programs stood still.
    stopped_us: int
    #: What the source had changed of its template's memory: each copy has so much of its own.
    changed_bytes: int


@dataclass(frozen=True)
class SavedSandbox:
    """A snapshot that was just taken."""

    name: str
    bytes: int
    stopped_us: int


@dataclass(frozen=True)
class Secret:
    """A secret to install; nothing shows its value."""

    name: str
    value: str | bytes = field(repr=False)
    #: Whether it is a file in the directory of secrets as well.
    file: bool = True


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port of the daemon's host that leads into a sandbox."""

    guest_port: int
    #: Where to listen, such as `127.0.0.1:8080`; port 0 is any that is free.
    listen: str = "127.0.0.1:0"
    guest_host: str | None = None
    #: The service that it is for: it is closed when that is stopped or removed.
    service: str | None = None
