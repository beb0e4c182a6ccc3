"""A directory of this machine's as a tar archive, made as it is sent."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterable, Iterator

from .errors import HearthError

_PIECE = 256 * 1024


def pack(path: str | os.PathLike[str], *, tracked: bool = False) -> Iterator[bytes]:
    """The children of a directory, with `tracked` only what Git knows of them, as pieces of a tar archive.

    Sockets and devices are left out. Raises `HearthError` where Git cannot tell, `OSError` for what cannot be read.
    """
    root = os.path.abspath(path)
    names = tracked_files(root) if tracked else _walk(root)
    # It is opened for its tables of names and links only: what it would write is made here, a piece at a time.
    with tarfile.open(os.devnull, "w", format=tarfile.PAX_FORMAT) as table:
        for name in names:
            member = table.gettarinfo(os.path.join(root, name), name)
            if member is not None:
                yield from _member(member, os.path.join(root, name))
    yield bytes(2 * tarfile.BLOCKSIZE)


def tracked_files(root: str) -> list[str]:
    """The files that Git knows of a working tree and that are there, those of its submodules as well."""
    # A monitor is a program that the tree names.
    git = ["git", "-C", root, "-c", "core.fsmonitor=false", "ls-files", "-z", "--recurse-submodules"]
    listed = subprocess.run(git, capture_output=True)
    if listed.returncode != 0:
        raise HearthError(f"git cannot list what it knows of {root}: {listed.stderr.decode(errors='replace').strip()}")
    names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [name for name in names if os.path.lexists(os.path.join(root, name))]


def _walk(root: str) -> Iterable[str]:
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in [*directories, *sorted(files)]:
            yield os.path.relpath(os.path.join(directory, name), root)


def _member(member: tarfile.TarInfo, path: str) -> Iterator[bytes]:
    yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if not member.isreg():
        return
    left = member.size
    with open(path, "rb") as file:
        while left > 0:
            piece = file.read(min(_PIECE, left))
            if not piece:
                raise OSError(f"{path} has become shorter while it was read")
            left -= len(piece)
            yield piece
    yield bytes(-member.size % tarfile.BLOCKSIZE)
