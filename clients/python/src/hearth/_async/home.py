"""What a daemon's home keeps beside its sandboxes: snapshots, templates, images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._json import plain, segment
from ..models import (
    ImageInfo,
    ImageList,
    RemovedTemplate,
    SnapshotInfo,
    SnapshotList,
    TemplateInfo,
    TemplateList,
)
from ..options import TemplateOptions
from .driver import Content
from .transport import AsyncDownload, AsyncTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncSnapshots:
    """The snapshots that a daemon has. `AsyncSandbox.snapshot` takes one, and `AsyncClient.create(snapshot=…)` starts from one."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._path = "v1/snapshots"

    async def list(self) -> Sequence[SnapshotInfo]:
        return (await self._transport.ask(SnapshotList, "GET", self._path)).snapshots

    async def get(self, name: str) -> SnapshotInfo:
        return await self._transport.ask(SnapshotInfo, "GET", f"{self._path}/{segment(name)}")

    async def remove(self, name: str) -> None:
        """Removes one. Sandboxes that were started from it go on."""
        await self._transport.fetch("DELETE", f"{self._path}/{segment(name)}")

    async def export(self, name: str) -> AsyncDownload:
        """One with all it needs but the image, as it comes. It has all that was in the guest's memory, secrets included."""
        return await self._transport.download("GET", f"{self._path}/{segment(name)}/archive")

    async def unpack(self, name: str, content: Content) -> SnapshotInfo:
        """Takes in what `export` gave, under a name of its own, all of it or nothing: content that ends in an exception adds nothing."""
        path = f"{self._path}/{segment(name)}/archive"
        return await self._transport.ask(SnapshotInfo, "PUT", path, content=content)


class AsyncTemplates:
    """The templates that a daemon has: guests that were booted once, for others to be restored from."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._path = "v1/templates"

    async def list(self) -> Sequence[TemplateInfo]:
        return (await self._transport.ask(TemplateList, "GET", self._path)).templates

    async def build(self, **options: Unpack[TemplateOptions]) -> TemplateInfo:
        """Makes the template for a kind of sandbox, unless it is there: otherwise its first sandbox does."""
        return await self._transport.ask(TemplateInfo, "POST", self._path, body=plain({**options}))

    async def remove(self, template: str) -> str:
        """Removes one that nothing needs, meant by its name or the beginning of it, and returns the whole name."""
        path = f"{self._path}/{segment(template)}"
        return (await self._transport.ask(RemovedTemplate, "DELETE", path)).id


class AsyncImages:
    """The images that a daemon has. They are built on its host: `hearth image build`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._path = "v1/images"

    async def list(self) -> Sequence[ImageInfo]:
        return (await self._transport.ask(ImageList, "GET", self._path)).images

    async def get(self, image: str) -> ImageInfo:
        """Finds one by a name, or by at least six digits of its digest."""
        return await self._transport.ask(ImageInfo, "GET", f"{self._path}/{segment(image)}")

    async def remove(self, image: str) -> None:
        """Removes a name, or all names of one given by its digest; the image goes with its last name."""
        await self._transport.fetch("DELETE", f"{self._path}/{segment(image)}")
