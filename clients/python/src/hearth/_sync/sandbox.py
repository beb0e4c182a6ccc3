"""A sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from .._archive import pack
from .._json import changes, plain, query, segment
from ..errors import ConflictError, NotFoundError
from ..models import (
    ChangeList,
    Checkpoint,
    CheckpointList,
    CommandLine,
    ExecResult,
    ForkedSandboxes,
    Imported,
    InstallResult,
    Patched,
    PausedSandbox,
    ProcessInfo,
    ProcessList,
    ProcessStarted,
    ResetDone,
    SandboxInfo,
    SavedSandbox,
)
from ..options import ChangeOptions, ForkOptions, HoldOptions, InstallOptions, ProgramOptions
from .driver import Content
from .files import Files, GuestPath
from .held import Held
from .kernels import Kernels
from .processes import Process
from .services import Ports, Secrets, Services
from .shells import Shells
from .transport import Download, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Sandbox:
    """A sandbox, named by its id. Leaving the context of one that was made here (created, forked) removes it.

    A request to the guest of a paused sandbox wakes it.
    """

    def __init__(
        self, transport: Transport, info: SandboxInfo, *, is_made: bool, bond: Transport | None = None
    ) -> None:
        self._transport = transport
        self._is_made = is_made
        #: The connection that its life hangs on.
        self._bond = bond
        self.id = info.id
        #: What it was when this was last told; `inspect` asks anew.
        self.info = info
        self._path = path = f"v1/sandboxes/{segment(info.id)}"
        self.files = Files(transport, path)
        self.services = Services(transport, path)
        self.ports = Ports(transport, path)
        self.secrets = Secrets(transport, path)
        self.shells = Shells(transport, path)
        self.kernels = Kernels(transport, path)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.info.name or self.id} {self.info.state}>"

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._is_made:
            self.remove(missing_ok=True)

    def inspect(self) -> SandboxInfo:
        """What it is now."""
        self.info = self._transport.ask(SandboxInfo, "GET", self._path)
        return self.info

    def change(self, **options: Unpack[ChangeOptions]) -> SandboxInfo:
        """Changes name, labels, lifetime, or what becomes of it when idle. `None` takes away."""
        self.info = self._transport.ask(SandboxInfo, "PATCH", self._path, body=changes(options))
        return self.info

    def keep(self) -> SandboxInfo:
        """Lets a sandbox live on that was made as `provisional`."""
        over = self._bond or self._transport
        self.info = over.ask(SandboxInfo, "PATCH", self._path, body={"lifespan": "kept"})
        self._is_made = False
        self._unbind()
        return self.info

    def remove(self, *, missing_ok: bool = False) -> None:
        """Removes it, and returns once nothing of it is left."""
        try:
            self._transport.fetch("DELETE", self._path)
        except (NotFoundError, ConflictError) as error:
            if not missing_ok or error.code not in ("unknown_sandbox", "sandbox_removed"):
                raise
        finally:
            self._unbind()

    def _unbind(self) -> None:
        bond, self._bond = self._bond, None
        if bond is not None:
            bond.close()

    def pause(self) -> PausedSandbox:
        """Puts it on disk, without a machine."""
        paused = self._transport.ask(PausedSandbox, "POST", f"{self._path}/pause")
        self.info = paused.sandbox
        return paused

    def resume(self) -> SandboxInfo:
        """Lets it go on."""
        self.info = self._transport.ask(SandboxInfo, "POST", f"{self._path}/resume")
        return self.info

    def fork(self, copies: int = 1, **options: Unpack[ForkOptions]) -> Forked:
        """Copies it with everything that runs, from this very moment."""
        body = plain({"copies": copies, **options})
        forked = self._transport.ask(ForkedSandboxes, "POST", f"{self._path}/fork", body=body)
        return Forked(
            [Sandbox(self._transport, info, is_made=True) for info in forked.sandboxes],
            forked.stopped_us,
            forked.changed_bytes,
        )

    def snapshot(self, name: str) -> SavedSandbox:
        """Saves it under a name, from which any number of others can be created; it goes on."""
        return self._transport.ask(SavedSandbox, "POST", f"{self._path}/snapshot", body={"name": name})

    def console(self) -> str:
        """The end of its console, escaped for a terminal."""
        return (self._transport.fetch("GET", f"{self._path}/logs")).decode(errors="replace")

    def exec(
        self,
        command: CommandLine,
        *,
        stdin: str | None = None,
        max_output_bytes: int | None = None,
        check: bool = False,
        **options: Unpack[ProgramOptions],
    ) -> ExecResult:
        """Runs a program to its end.

        Of each stream the answer has `max_output_bytes` at most (1 MiB by default, 16 MiB at most), half from the beginning and half
        from the end. With `check`, a program that fails raises `ProgramFailedError`.
        """
        body = plain({"command": command, "stdin": stdin, "max_output_bytes": max_output_bytes, **options})
        result = self._transport.ask(ExecResult, "POST", f"{self._path}/exec", body=body)
        return result.check() if check else result

    def install(
        self,
        packages: Sequence[str],
        language: Literal["python", "javascript"] = "python",
        *,
        check: bool = False,
        **options: Unpack[InstallOptions],
    ) -> InstallResult:
        """Installs packages, each a name with a version (`six==1.16.0`, `lodash@^4.17`), and waits until the installer has ended.

        With `check`, an installer that fails raises `ProgramFailedError`.
        """
        given = {name.rstrip("_"): value for name, value in options.items()}
        body = plain({"language": language, "packages": packages, **given})
        result = self._transport.ask(InstallResult, "POST", f"{self._path}/packages", body=body)
        return result.check() if check else result

    def hold(self, command: CommandLine, **options: Unpack[HoldOptions]) -> Held:
        """Starts a program and holds it: its output as it comes, input (`interactive=True`), signals."""
        held = Held(self._transport.websocket(f"/{self._path}/exec", {}))
        return held.begin({"command": command, **options})

    def start(self, command: CommandLine, **options: Unpack[ProgramOptions]) -> Process:
        """Starts a program, and does not wait for it."""
        body = plain({"command": command, **options})
        started = self._transport.ask(ProcessStarted, "POST", f"{self._path}/processes", body=body)
        return Process(self._transport, self._path, started.process)

    def processes(self) -> Sequence[ProcessInfo]:
        """The programs that its agent knows, those that have ended included."""
        return (self._transport.ask(ProcessList, "GET", f"{self._path}/processes")).processes

    def process(self, reference: int | str) -> Process:
        """Names a program that is there, by its id or its tag."""
        return Process(self._transport, self._path, reference)

    def seed(self, path: str | os.PathLike[str], *, tracked: bool = False) -> Imported:
        """Fills the workspace with a directory of this machine's, with `tracked` only with what Git knows of it, and takes the baseline."""
        unpacked = self.files.unpack(pack(path, tracked=tracked))
        self.checkpoint()
        return unpacked

    def diff(self, since: str | None = None) -> Download:
        """What has changed in the workspace since a checkpoint, the baseline by default, as a patch that `git apply` takes."""
        return self._transport.download("GET", f"{self._path}/diff", query=query({"since": since}))

    def changes(self, since: str | None = None) -> ChangeList:
        """What has changed, by path."""
        return self._transport.ask(ChangeList, "GET", f"{self._path}/changes", query=query({"since": since}))

    def patch(
        self,
        patch: Content | str,
        *,
        path: GuestPath | None = None,
        strip: int | None = None,
        reverse: bool = False,
        check: bool = False,
    ) -> Patched:
        """Applies a patch, all of it or nothing. `check` only finds out whether it applies."""
        content = patch.encode() if isinstance(patch, str) else patch
        where = None if path is None else os.fsdecode(path)
        asked = query({"path": where, "strip": strip, "reverse": reverse or None, "check": check or None})
        return self._transport.ask(Patched, "POST", f"{self._path}/patch", query=asked, content=content)

    def reset(self, name: str | None = None) -> ResetDone:
        """Makes the workspace what it was at a checkpoint, the baseline by default, all of it or nothing."""
        return self._transport.ask(ResetDone, "POST", f"{self._path}/reset", body=plain({"name": name}))

    def checkpoint(self, name: str | None = None) -> Checkpoint:
        """Takes a checkpoint of the workspace, the baseline by default, in place of one of the same name."""
        return self._transport.ask(Checkpoint, "POST", f"{self._path}/checkpoints", body=plain({"name": name}))

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The checkpoints there are, the oldest first."""
        return (self._transport.ask(CheckpointList, "GET", f"{self._path}/checkpoints")).checkpoints

    def remove_checkpoint(self, name: str) -> None:
        self._transport.fetch("DELETE", f"{self._path}/checkpoints/{segment(name)}")


class Forked:
    """What a fork has made, as a sequence of sandboxes. Leaving its context removes them."""

    def __init__(self, sandboxes: Sequence[Sandbox], stopped_us: int, changed_bytes: int) -> None:
        self.sandboxes = sandboxes
        #: For how long the source's programs stood still.
        self.stopped_us = stopped_us
        #: What the source had changed of its template's memory: each copy has so much of its own.
        self.changed_bytes = changed_bytes

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(self.sandboxes)

    def __len__(self) -> int:
        return len(self.sandboxes)

    def __getitem__(self, number: int) -> Sandbox:
        return self.sandboxes[number]

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for sandbox in self.sandboxes:
            sandbox.remove(missing_ok=True)
