"""Files and trees, and the history of the workspace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .words import FileKind, RawString


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What is at a path, relative to the root of the request."""

    path: RawString
    kind: FileKind
    size: int
    #: What it takes on the disk, in bytes.
    allocated: int
    #: Permissions, the lowest twelve bits.
    mode: int
    uid: int
    gid: int
    links: int
    modified_ns: int
    target: RawString | None = None
    unreadable: str | None = None


@dataclass(frozen=True)
class FileList:
    entries: list[FileEntry]
    #: What goes into `after` for those that follow, if there are more.
    next: RawString | None = None


@dataclass(frozen=True)
class Count:
    entries: int


@dataclass(frozen=True, kw_only=True)
class TextEdit:
    """A text to replace: there once, or as often as `count` says, or wherever it is."""

    old: RawString
    new: RawString
    count: int | None = None
    all: bool = False


@dataclass(frozen=True)
class Edited:
    replaced: int
    entry: FileEntry


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line that was found, or one beside it (without spans)."""

    path: RawString
    line: int
    text: RawString
    #: Where the matches are, in bytes, each from its first to behind its last.
    spans: list[tuple[int, int]] = field(default_factory=list)
    cut: bool = False


@dataclass(frozen=True)
class Found:
    lines: list[Line]
    matches: int
    #: Why the search ended before its end, if it did.
    enough: Literal["matches", "time", "unknown"] | None = None


@dataclass(frozen=True)
class Imported:
    members: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Change:
    path: RawString
    change: Literal["created", "modified", "mode", "replaced", "deleted", "unknown"]
    kind: FileKind
    bytes_before: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class ChangeTotals:
    created: int
    modified: int
    deleted: int
    #: How many of these no patch can carry.
    left_out: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class ChangeList:
    changes: list[Change]
    totals: ChangeTotals


@dataclass(frozen=True)
class Checkpoint:
    name: str
    #: By the guest's clock, since 1970.
    taken_ms: int
    files: int
    bytes: int
    skipped: int = 0


@dataclass(frozen=True)
class CheckpointList:
    checkpoints: list[Checkpoint]


@dataclass(frozen=True)
class Patched:
    files: int
    hunks: int
    #: How many hunks matched elsewhere than they said.
    moved: int = 0


@dataclass(frozen=True)
class ResetDone:
    restored: int
    removed: int
    adjusted: int
    left_out: int = 0
