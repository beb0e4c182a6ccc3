"""The daemon, what it costs, and what happens to its sandboxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .words import SandboxState


@dataclass(frozen=True, kw_only=True)
class Health:
    sandboxes: int
    sandboxes_limit: int
    memory_mib: int
    memory_limit_mib: int
    cpus: int = 0
    cpus_limit: int = 0
    #: Requests for a sandbox that wait for room.
    waiting: int = 0


@dataclass(frozen=True)
class Version:
    version: str
    api: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class PoolKindInfo:
    image: str
    cpus: int
    memory_mib: int
    disk_mib: int | None = None
    ready: int
    standby: int = 0
    making: int


@dataclass(frozen=True, kw_only=True)
class PoolInfo:
    ready_limit: int
    standby_limit: int = 0
    kinds_limit: int
    idle_seconds: int
    floor_mib: int
    is_pressed: bool
    kinds: list[PoolKindInfo]
    claimed: int
    standby: int = 0
    missed: int
    made: int
    failed: int
    lost: int
    drained: int


@dataclass(frozen=True)
class HostUsage:
    cpus: int
    memory_bytes: int | None = None
    available_bytes: int | None = None


@dataclass(frozen=True)
class MachineUsage:
    cpu_us: int
    memory_bytes: int
    #: What of that belongs to it alone.
    own_bytes: int


@dataclass(frozen=True, kw_only=True)
class SandboxUsage:
    id: str
    name: str | None = None
    state: SandboxState
    created_unix_ms: int
    cpus: int
    memory_mib: int
    machine: MachineUsage | None = None


@dataclass(frozen=True)
class UsageList:
    #: When this was measured, by a clock that only goes on.
    at_us: int
    host: HostUsage
    sandboxes: list[SandboxUsage]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that has happened to a sandbox."""

    position: int
    at_unix_ms: int
    sandbox: str
    name: str | None = None
    event: Literal["state", "changed", "adopted", "unknown"]
    state: SandboxState | None = None
    reason: str | None = None
    told: str | None = None


@dataclass(frozen=True)
class Missed:
    """So many events are no longer kept."""

    count: int
