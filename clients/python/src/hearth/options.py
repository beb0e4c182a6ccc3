"""The keyword arguments of requests. What is left out, or `None`, is as the daemon has it by default; what it does not know it refuses
by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from .models import (
    CommandLine,
    Delivery,
    Idle,
    Port,
    PtySize,
    RawString,
    Readiness,
    ResourceLimits,
    Restart,
    Secret,
)


class CreateOptions(TypedDict, total=False):
    """A sandbox to make."""

    name: str | None
    image: str | None
    cpus: int | None
    memory_mib: int | None
    #: A disk of this size for what the guest writes; without it that stays in its memory.
    disk_mib: int | None
    accelerator: Literal["auto", "kvm", "tcg"] | None
    start: Literal["template", "boot"] | None
    #: The snapshot that it goes on from.
    snapshot: str | None
    env: Mapping[str, RawString] | None
    secrets: Sequence[Secret] | None
    ports: Sequence[Port] | None
    labels: Mapping[str, str] | None
    ttl_seconds: int | None
    idle: Idle | None


class ChangeOptions(TypedDict, total=False):
    """What to change of a sandbox; `None` takes a name, a lifetime or what becomes of it when idle away."""

    name: str | None
    #: In place of those there are.
    labels: Mapping[str, str]
    #: Counted from now.
    ttl_seconds: int | None
    idle: Idle | None


class ForkOptions(TypedDict, total=False):
    """Copies to make of a sandbox."""

    #: Of more than one copy, each has its number behind it: `name-1`, `name-2`, …
    name: str | None
    #: By default those of the source.
    labels: Mapping[str, str] | None
    ttl_seconds: int | None
    idle: Idle | None
    #: Whether they keep the secrets that the source was given.
    secrets: bool


class TemplateOptions(TypedDict, total=False):
    """The kind of sandbox that a template is for."""

    image: str | None
    cpus: int | None
    memory_mib: int | None
    disk_mib: int | None
    accelerator: Literal["auto", "kvm", "tcg"] | None


class InstallOptions(TypedDict, total=False):
    """How packages are installed."""

    #: A directory of the guest with the packages as files, wheels or tarballs: only they are used then, and no network.
    from_: RawString | None
    #: For JavaScript, the directory whose `node_modules` they go to; the workspace by default.
    directory: RawString | None
    env: Mapping[str, RawString] | None
    #: The installer's deadline.
    timeout_ms: int | None
    max_output_bytes: int | None


class ProgramOptions(TypedDict, total=False):
    """How a program runs."""

    cwd: RawString | None
    env: Mapping[str, RawString] | None
    #: More variables, whose values are secrets: names of secrets by names of variables.
    secrets: Mapping[str, str] | None
    user: str | None
    #: Its deadline: it is ended then, with all it has started.
    timeout_ms: int | None
    #: The time between TERM and KILL.
    grace_ms: int | None
    tag: str | None
    limits: ResourceLimits | None


class HoldOptions(ProgramOptions, total=False):
    """How a program runs that is held."""

    #: Runs it on a terminal of this size.
    pty: PtySize | None
    #: Whether input will come. A terminal always takes some.
    interactive: bool
    #: What happens when this end is slow: the program waits (`lossless`, the default), or bytes are dropped.
    delivery: Delivery | None


class ServiceOptions(TypedDict, total=False):
    """How a service runs."""

    cwd: RawString | None
    env: Mapping[str, RawString] | None
    secrets: Mapping[str, str] | None
    user: str | None
    limits: ResourceLimits | None
    grace_ms: int | None
    #: Without it, it is ready once it has run for a moment.
    readiness: Readiness | None
    ready_timeout_ms: int | None
    ready_interval_ms: int | None
    restart: Restart | None


class ShellOptions(TypedDict, total=False):
    """How a shell runs."""

    #: The user's own shell by default.
    command: CommandLine | None
    cwd: RawString | None
    env: Mapping[str, RawString] | None
    secrets: Mapping[str, str] | None
    user: str | None
    size: PtySize | None
    limits: ResourceLimits | None


class KernelOptions(TypedDict, total=False):
    """How a kernel runs."""

    cwd: RawString | None
    env: Mapping[str, RawString] | None
    secrets: Mapping[str, str] | None
    user: str | None
    #: Modules to import ahead.
    imports: Sequence[str] | None


class CodeOptions(TypedDict, total=False):
    """How code runs in a kernel."""

    env: Mapping[str, RawString] | None
    secrets: Mapping[str, str] | None
    timeout_ms: int | None
    grace_ms: int | None
    #: Gives the code up when this client asks no more for it.
    cancel_on_detach: bool


class SearchOptions(TypedDict, total=False):
    """What to search files for, and which."""

    root: Literal["workspace", "home", "system"] | None
    #: Takes the pattern for the text itself.
    literal: bool
    case: Literal["sensitive", "insensitive", "smart"] | None
    word: bool
    #: As lines of a `.gitignore` name files.
    globs: Sequence[str] | None
    hidden: bool
    ignored: bool
    #: Lines of context.
    before: int
    after: int
    limit: int | None
    limit_per_file: int | None
    line_bytes: int | None
    timeout_ms: int | None
