"""The words that only some values have, and strings of the guest's system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Union

#: A string of the guest's system: bytes where it is no UTF-8.
RawString = Union[str, bytes]
#: What to run: a text for `/bin/sh -c`, or a program and its arguments.
CommandLine = Union[str, bytes, Sequence[RawString]]
SandboxState = Literal[
    "creating",
    "adopting",
    "running",
    "capturing",
    "pausing",
    "paused",
    "resuming",
    "stopping",
    "stopped",
    "starting",
    "failed",
    "removing",
    "removed",
    "unknown",
]
#: Beneath which directory of the guest a path is: the workspace, the user's home, or the whole file system.
FileRoot = Literal["workspace", "home", "system"]
FileKind = Literal["file", "directory", "symlink", "fifo", "socket", "device", "unknown"]
StreamName = Literal["stdout", "stderr"]
Delivery = Literal["lossless", "bounded"]
SignalScope = Literal["process", "tree", "foreground"]
Language = Literal["python", "bash", "javascript"]
Compression = Literal["none", "gzip", "zstd"]
