"""What a daemon's home keeps beside its sandboxes: snapshots, templates, images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """A sandbox that was saved under a name."""

    name: str
    created_unix_ms: int
    #: What it takes on disk beside its template.
    bytes: int
    #: The template that it lies on, and keeps.
    template: str
    #: The image's digest.
    image: str
    cpus: int
    memory_mib: int
    disk_mib: int | None = None


@dataclass(frozen=True)
class SnapshotList:
    snapshots: list[SnapshotInfo]


@dataclass(frozen=True, kw_only=True)
class TemplateMachine:
    """What a template was made of."""

    #: The image's digest.
    image: str
    cpus: int
    memory_mib: int
    disk_mib: int | None = None
    #: What ran it: `kvm` or `tcg`.
    accelerator: str
    board: str
    qemu: str
    created_unix_ms: int


@dataclass(frozen=True, kw_only=True)
class TemplateInfo:
    """A guest that was booted once, for others to be restored from."""

    id: str
    bytes: int
    #: When it was last loaded or made.
    used_unix_ms: int
    #: Whether a process has it loaded, or a sandbox lies on it.
    in_use: bool
    #: The snapshots that lie on it.
    snapshots: list[str]
    #: None where its record is damaged, and it is never used.
    machine: TemplateMachine | None = None


@dataclass(frozen=True)
class TemplateList:
    templates: list[TemplateInfo]


@dataclass(frozen=True)
class RemovedTemplate:
    id: str


@dataclass(frozen=True)
class ImageKernel:
    release: str
    #: The Debian package and version that it came from, if it did.
    package: str | None = None


@dataclass(frozen=True)
class ImageFiles:
    """Where an image is on the daemon's host."""

    rootfs: str
    kernel: str
    modules: str


@dataclass(frozen=True)
class ImagePackage:
    name: str
    version: str
    architecture: str


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What sandboxes start from."""

    name: str | None = None
    digest: str
    bytes: int
    created_unix_ms: int
    #: The Debian suite it was built from.
    suite: str
    #: The ordinary user in it.
    user: str
    kernel: ImageKernel
    files: ImageFiles
    packages: list[ImagePackage]


@dataclass(frozen=True)
class ImageList:
    images: list[ImageInfo]
