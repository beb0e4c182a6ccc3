"""Files and trees of a guest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, Union

from .._json import place, plain
from ..models import (
    Compression,
    Count,
    Edited,
    FileEntry,
    FileList,
    FileRoot,
    Found,
    Imported,
    RawString,
    TextEdit,
)
from ..options import SearchOptions
from .driver import Content
from .transport import AsyncDownload, AsyncTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack

_T = TypeVar("_T")
#: A path of the guest's: relative to the root, or absolute and inside it.
GuestPath = Union[str, bytes, "os.PathLike[str]"]


class AsyncFiles:
    """The files of a sandbox. Paths are beneath the workspace unless `root` says otherwise."""

    def __init__(self, transport: AsyncTransport, sandbox: str) -> None:
        self._transport = transport
        self._sandbox = sandbox
        self._path = f"{sandbox}/files"

    async def read(
        self, path: GuestPath, *, offset: int | None = None, length: int | None = None, root: FileRoot | None = None
    ) -> bytes:
        """A file's bytes, whole in memory; `open` has them as they come."""
        async with await self.open(path, offset=offset, length=length, root=root) as content:
            return await content.read()

    async def read_text(self, path: GuestPath, *, root: FileRoot | None = None) -> str:
        """A file's text, which must be UTF-8."""
        return (await self.read(path, root=root)).decode()

    async def open(
        self, path: GuestPath, *, offset: int | None = None, length: int | None = None, root: FileRoot | None = None
    ) -> AsyncDownload:
        """A file's bytes as they come."""
        asked = place(path, root, offset=offset, length=length)
        return await self._transport.download("GET", f"{self._path}/content", query=asked)

    async def write(
        self,
        path: GuestPath,
        content: Content | str,
        *,
        mode: int | None = None,
        create: Literal["any", "new", "existing"] | None = None,
        append: bool = False,
        root: FileRoot | None = None,
    ) -> FileEntry:
        """Writes a file, whole or not at all: content that ends in an exception changes nothing. Missing directories are made."""
        content = content.encode() if isinstance(content, str) else content
        asked = place(path, root, mode=mode, create=create, append=append or None)
        return await self._transport.ask(FileEntry, "PUT", f"{self._path}/content", query=asked, content=content)

    async def stat(self, path: GuestPath, *, root: FileRoot | None = None) -> FileEntry:
        """Describes what is at a path; of a link, the link."""
        return await self._ask(FileEntry, "stat", path, root)

    async def list(
        self,
        path: GuestPath = ".",
        *,
        recursive: bool = False,
        depth: int | None = None,
        limit: int | None = None,
        after: RawString | None = None,
        root: FileRoot | None = None,
    ) -> FileList:
        """Lists a directory, or a page of it: `after` is an earlier list's `next`."""
        more = {"recursive": recursive, "depth": depth, "limit": limit, "after": after}
        return await self._ask(FileList, "list", path, root, **more)

    async def mkdir(
        self, path: GuestPath, *, parents: bool = False, mode: int | None = None, root: FileRoot | None = None
    ) -> FileEntry:
        """Makes a directory. `parents` makes those above it too, and takes one that is there."""
        return await self._ask(FileEntry, "mkdir", path, root, parents=parents, mode=mode)

    async def move(
        self, path: GuestPath, to: GuestPath, *, replace: bool = False, root: FileRoot | None = None
    ) -> FileEntry:
        """Gives something another path."""
        return await self._ask(FileEntry, "move", path, root, to=to, replace=replace)

    async def copy(self, path: GuestPath, to: GuestPath, *, replace: bool = False, root: FileRoot | None = None) -> int:
        """Copies, a directory with all that is in it, and says how many entries that were."""
        return (await self._ask(Count, "copy", path, root, to=to, replace=replace)).entries

    async def remove(
        self, path: GuestPath, *, recursive: bool = False, missing_ok: bool = False, root: FileRoot | None = None
    ) -> int:
        """Removes, and says how many entries that were."""
        return (await self._ask(Count, "remove", path, root, recursive=recursive, missing_ok=missing_ok)).entries

    async def symlink(
        self, path: GuestPath, target: GuestPath, *, replace: bool = False, root: FileRoot | None = None
    ) -> FileEntry:
        """Makes a symbolic link at `path` that says `target`."""
        return await self._ask(FileEntry, "symlink", path, root, target=target, replace=replace)

    async def chmod(
        self,
        path: GuestPath,
        mode: int,
        *,
        recursive: bool = False,
        directory_mode: int | None = None,
        root: FileRoot | None = None,
    ) -> int:
        """Changes permissions, and says of how many entries."""
        more = {"mode": mode, "recursive": recursive, "directory_mode": directory_mode}
        return (await self._ask(Count, "chmod", path, root, **more)).entries

    async def edit(self, path: GuestPath, edits: Sequence[TextEdit], *, root: FileRoot | None = None) -> Edited:
        """Replaces texts in a file, one after the other, all or none."""
        return await self._ask(Edited, "edit", path, root, edits=edits)

    async def search(self, path: GuestPath, pattern: str, **options: Unpack[SearchOptions]) -> Found:
        """Searches files for a regular expression, in the syntax of Rust's `regex`, line by line."""
        body = plain({"path": path, "pattern": pattern, **options})
        return await self._transport.ask(Found, "POST", f"{self._path}/search", body=body)

    async def export(
        self,
        path: GuestPath = ".",
        *,
        only: Iterable[RawString] | None = None,
        compression: Compression | None = None,
        root: FileRoot | None = None,
    ) -> AsyncDownload:
        """A tree as a tar archive, as it comes; with `only`, just these paths of it."""
        asked = place(path, root, compression=compression)
        where = f"{self._sandbox}/archive"
        if only is None:
            return await self._transport.download("GET", where, query=asked)
        names = b"".join(os.fsencode(name) + b"\0" for name in only)
        return await self._transport.download("POST", where, query=asked, content=names)

    async def unpack(
        self, archive: Content, path: GuestPath = ".", *, limit_bytes: int | None = None, root: FileRoot | None = None
    ) -> Imported:
        """Unpacks a tar archive, plain or compressed, all of it or nothing."""
        asked = place(path, root, limit_bytes=limit_bytes)
        return await self._transport.ask(Imported, "PUT", f"{self._sandbox}/archive", query=asked, content=archive)

    async def _ask(self, kind: type[_T], operation: str, path: GuestPath, root: FileRoot | None, **more: object) -> _T:
        body = plain({"path": path, "root": root, **more})
        return await self._transport.ask(kind, "POST", f"{self._path}/{operation}", body=body)
