"""Services and their logs, ports and secrets that there are, shells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .programs import Command, ExitStatus, PtySize
from .sandboxes import Port
from .words import CommandLine, RawString


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What shows that a service is ready. Made by one of the four functions."""

    type: Literal["file", "tcp", "http", "command", "unknown"]
    path: RawString | None = None
    address: str | None = None
    url: str | None = None
    command: Command | None = None

    @staticmethod
    def of_file(path: RawString) -> Readiness:
        """Something is at a path, relative to the service's working directory."""
        return Readiness(type="file", path=path)

    @staticmethod
    def of_tcp(address: str) -> Readiness:
        """A TCP port, such as `127.0.0.1:80`, takes a connection."""
        return Readiness(type="tcp", address=address)

    @staticmethod
    def of_http(url: str) -> Readiness:
        """An HTTP server answers a GET with a status from 200 to 399."""
        return Readiness(type="http", url=url)

    @staticmethod
    def of_command(command: CommandLine) -> Readiness:
        """A command exits with 0."""
        if isinstance(command, (str, bytes)):
            return Readiness(type="command", command=Command(shell=command))
        return Readiness(type="command", command=Command(argv=list(command)))


@dataclass(frozen=True, kw_only=True)
class Restart:
    """When a service is started again by itself, how soon and how often."""

    when: Literal["on_failure", "always"]
    first_ms: int | None = None
    longest_ms: int | None = None
    max: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {self.when: {"first_ms": self.first_ms, "longest_ms": self.longest_ms, "max": self.max}}


@dataclass(frozen=True)
class LogPositions:
    stdout: int
    stderr: int


@dataclass(frozen=True, kw_only=True)
class ServiceInfo:
    """A service as it is."""

    name: str
    command: Command
    cwd: RawString | None = None
    readiness: Readiness | None = None
    state: Literal["starting", "running", "restarting", "exited", "stopped", "failed", "unknown"]
    reason: str | None = None
    failure: str | None = None
    process: int
    pid: int
    started_unix_ms: int
    ready_unix_ms: int | None = None
    ended_unix_ms: int | None = None
    exit: ExitStatus | None = None
    restarts: int
    #: Where its log ends.
    log: LogPositions


@dataclass(frozen=True)
class ServiceList:
    services: list[ServiceInfo]


@dataclass(frozen=True)
class PortList:
    ports: list[Port]


@dataclass(frozen=True)
class SecretInfo:
    name: str
    bytes: int
    file: bool
    set_unix_ms: int


@dataclass(frozen=True)
class SecretList:
    #: The directory in the guest that their files are in; programs know it as `HEARTH_SECRETS`.
    directory: str
    secrets: list[SecretInfo]


@dataclass(frozen=True)
class ShellOpened:
    process: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class ShellInfo:
    name: str
    process: int
    pid: int
    size: PtySize
    age_ms: int
    #: The bytes written to its terminal.
    output: int
    exit: ExitStatus | None = None


@dataclass(frozen=True)
class ShellList:
    shells: list[ShellInfo]


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Lines of a shell's screen that have changed."""

    #: The `since` of the next read.
    next: int
    lines: int
    #: The number of the first of them, from the first line there ever was.
    first: int
    more: bool = False
    gap: bool = False
    alternate: bool = False
    ended: bool
    text: str


@dataclass(frozen=True)
class ShellRest:
    """Why a wait for a shell was over, and whether a job is in its foreground."""

    reason: Literal["idle", "timeout", "ended", "unknown"]
    job: bool
