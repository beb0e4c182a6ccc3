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
from .transport import Download, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Snapshots:
    """The snapshots that a daemon has. `Sandbox.snapshot` takes one, and `Client.create(snapshot=…)` starts from one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._path = "v1/snapshots"

    def list(self) -> Sequence[SnapshotInfo]:
        return (self._transport.ask(SnapshotList, "GET", self._path)).snapshots

    def get(self, name: str) -> SnapshotInfo:
        return self._transport.ask(SnapshotInfo, "GET", f"{self._path}/{segment(name)}")

    def remove(self, name: str) -> None:
        """Removes one. Sandboxes that were started from it go on."""
        self._transport.fetch("DELETE", f"{self._path}/{segment(name)}")

    def export(self, name: str) -> Download:
        """One with all it needs but the image, as it comes. It has all that was in the guest's memory, secrets included."""
        return self._transport.download("GET", f"{self._path}/{segment(name)}/archive")

    def unpack(self, name: str, content: Content) -> SnapshotInfo:
        """Takes in what `export` gave, under a name of its own, all of it or nothing: content that ends in an exception adds nothing."""
        path = f"{self._path}/{segment(name)}/archive"
        return self._transport.ask(SnapshotInfo, "PUT", path, content=content)


class Templates:
    """The templates that a daemon has: guests that were booted once, for others to be restored from."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._path = "v1/templates"

    def list(self) -> Sequence[TemplateInfo]:
        return (self._transport.ask(TemplateList, "GET", self._path)).templates

    def build(self, **options: Unpack[TemplateOptions]) -> TemplateInfo:
        """Makes the template for a kind of sandbox, unless it is there: otherwise its first sandbox does."""
        return self._transport.ask(TemplateInfo, "POST", self._path, body=plain({**options}))

    def remove(self, template: str) -> str:
        """Removes one that nothing needs, meant by its name or the beginning of it, and returns the whole name."""
        path = f"{self._path}/{segment(template)}"
        return (self._transport.ask(RemovedTemplate, "DELETE", path)).id


class Images:
    """The images that a daemon has. They are built on its host: `hearth image build`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._path = "v1/images"

    def list(self) -> Sequence[ImageInfo]:
        return (self._transport.ask(ImageList, "GET", self._path)).images

    def get(self, image: str) -> ImageInfo:
        """Finds one by a name, or by at least six digits of its digest."""
        return self._transport.ask(ImageInfo, "GET", f"{self._path}/{segment(image)}")

    def remove(self, image: str) -> None:
        """Removes a name, or all names of one given by its digest; the image goes with its last name."""
        self._transport.fetch("DELETE", f"{self._path}/{segment(image)}")
