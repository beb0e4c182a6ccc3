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
from .files import AsyncFiles, GuestPath
from .held import AsyncHeld
from .kernels import AsyncKernels
from .processes import AsyncProcess
from .services import AsyncPorts, AsyncSecrets, AsyncServices
from .shells import AsyncShells
from .transport import AsyncDownload, AsyncTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncSandbox:
    """A sandbox, named by its id. Leaving the context of one that was made here (created, forked) removes it.

    A request to the guest of a paused sandbox wakes it.
    """

    def __init__(
        self, transport: AsyncTransport, info: SandboxInfo, *, is_made: bool, bond: AsyncTransport | None = None
    ) -> None:
        self._transport = transport
        self._is_made = is_made
        #: The connection that its life hangs on.
        self._bond = bond
        self.id = info.id
        #: What it was when this was last told; `inspect` asks anew.
        self.info = info
        self._path = path = f"v1/sandboxes/{segment(info.id)}"
        self.files = AsyncFiles(transport, path)
        self.services = AsyncServices(transport, path)
        self.ports = AsyncPorts(transport, path)
        self.secrets = AsyncSecrets(transport, path)
        self.shells = AsyncShells(transport, path)
        self.kernels = AsyncKernels(transport, path)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.info.name or self.id} {self.info.state}>"

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._is_made:
            await self.remove(missing_ok=True)

    async def inspect(self) -> SandboxInfo:
        """What it is now."""
        self.info = await self._transport.ask(SandboxInfo, "GET", self._path)
        return self.info

    async def change(self, **options: Unpack[ChangeOptions]) -> SandboxInfo:
        """Changes name, labels, lifetime, or what becomes of it when idle. `None` takes away."""
        self.info = await self._transport.ask(SandboxInfo, "PATCH", self._path, body=changes(options))
        return self.info

    async def keep(self) -> SandboxInfo:
        """Lets a sandbox live on that was made as `provisional`."""
        over = self._bond or self._transport
        self.info = await over.ask(SandboxInfo, "PATCH", self._path, body={"lifespan": "kept"})
        self._is_made = False
        await self._unbind()
        return self.info

    async def remove(self, *, missing_ok: bool = False) -> None:
        """Removes it, and returns once nothing of it is left."""
        try:
            await self._transport.fetch("DELETE", self._path)
        except (NotFoundError, ConflictError) as error:
            if not missing_ok or error.code not in ("unknown_sandbox", "sandbox_removed"):
                raise
        finally:
            await self._unbind()

    async def _unbind(self) -> None:
        bond, self._bond = self._bond, None
        if bond is not None:
            await bond.aclose()

    async def pause(self) -> PausedSandbox:
        """Puts it on disk, without a machine."""
        paused = await self._transport.ask(PausedSandbox, "POST", f"{self._path}/pause")
        self.info = paused.sandbox
        return paused

    async def resume(self) -> SandboxInfo:
        """Lets it go on."""
        self.info = await self._transport.ask(SandboxInfo, "POST", f"{self._path}/resume")
        return self.info

    async def fork(self, copies: int = 1, **options: Unpack[ForkOptions]) -> AsyncForked:
        """Copies it with everything that runs, from this very moment."""
        body = plain({"copies": copies, **options})
        forked = await self._transport.ask(ForkedSandboxes, "POST", f"{self._path}/fork", body=body)
        return AsyncForked(
            [AsyncSandbox(self._transport, info, is_made=True) for info in forked.sandboxes],
            forked.stopped_us,
            forked.changed_bytes,
        )

    async def snapshot(self, name: str) -> SavedSandbox:
        """Saves it under a name, from which any number of others can be created; it goes on."""
        return await self._transport.ask(SavedSandbox, "POST", f"{self._path}/snapshot", body={"name": name})

    async def console(self) -> str:
        """The end of its console, escaped for a terminal."""
        return (await self._transport.fetch("GET", f"{self._path}/logs")).decode(errors="replace")

    async def exec(
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
        result = await self._transport.ask(ExecResult, "POST", f"{self._path}/exec", body=body)
        return result.check() if check else result

    async def install(
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
        result = await self._transport.ask(InstallResult, "POST", f"{self._path}/packages", body=body)
        return result.check() if check else result

    async def hold(self, command: CommandLine, **options: Unpack[HoldOptions]) -> AsyncHeld:
        """Starts a program and holds it: its output as it comes, input (`interactive=True`), signals."""
        held = AsyncHeld(await self._transport.websocket(f"/{self._path}/exec", {}))
        return await held.begin({"command": command, **options})

    async def start(self, command: CommandLine, **options: Unpack[ProgramOptions]) -> AsyncProcess:
        """Starts a program, and does not wait for it."""
        body = plain({"command": command, **options})
        started = await self._transport.ask(ProcessStarted, "POST", f"{self._path}/processes", body=body)
        return AsyncProcess(self._transport, self._path, started.process)

    async def processes(self) -> Sequence[ProcessInfo]:
        """The programs that its agent knows, those that have ended included."""
        return (await self._transport.ask(ProcessList, "GET", f"{self._path}/processes")).processes

    def process(self, reference: int | str) -> AsyncProcess:
        """Names a program that is there, by its id or its tag."""
        return AsyncProcess(self._transport, self._path, reference)

    async def seed(self, path: str | os.PathLike[str], *, tracked: bool = False) -> Imported:
        """Fills the workspace with a directory of this machine's, with `tracked` only with what Git knows of it, and takes the baseline."""
        unpacked = await self.files.unpack(pack(path, tracked=tracked))
        await self.checkpoint()
        return unpacked

    async def diff(self, since: str | None = None) -> AsyncDownload:
        """What has changed in the workspace since a checkpoint, the baseline by default, as a patch that `git apply` takes."""
        return await self._transport.download("GET", f"{self._path}/diff", query=query({"since": since}))

    async def changes(self, since: str | None = None) -> ChangeList:
        """What has changed, by path."""
        return await self._transport.ask(ChangeList, "GET", f"{self._path}/changes", query=query({"since": since}))

    async def patch(
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
        return await self._transport.ask(Patched, "POST", f"{self._path}/patch", query=asked, content=content)

    async def reset(self, name: str | None = None) -> ResetDone:
        """Makes the workspace what it was at a checkpoint, the baseline by default, all of it or nothing."""
        return await self._transport.ask(ResetDone, "POST", f"{self._path}/reset", body=plain({"name": name}))

    async def checkpoint(self, name: str | None = None) -> Checkpoint:
        """Takes a checkpoint of the workspace, the baseline by default, in place of one of the same name."""
        return await self._transport.ask(Checkpoint, "POST", f"{self._path}/checkpoints", body=plain({"name": name}))

    async def checkpoints(self) -> Sequence[Checkpoint]:
        """The checkpoints there are, the oldest first."""
        return (await self._transport.ask(CheckpointList, "GET", f"{self._path}/checkpoints")).checkpoints

    async def remove_checkpoint(self, name: str) -> None:
        await self._transport.fetch("DELETE", f"{self._path}/checkpoints/{segment(name)}")


class AsyncForked:
    """What a fork has made, as a sequence of sandboxes. Leaving its context removes them."""

    def __init__(self, sandboxes: Sequence[AsyncSandbox], stopped_us: int, changed_bytes: int) -> None:
        self.sandboxes = sandboxes
        #: For how long the source's programs stood still.
        self.stopped_us = stopped_us
        #: What the source had changed of its template's memory: each copy has so much of its own.
        self.changed_bytes = changed_bytes

    def __iter__(self) -> Iterator[AsyncSandbox]:
        return iter(self.sandboxes)

    def __len__(self) -> int:
        return len(self.sandboxes)

    def __getitem__(self, number: int) -> AsyncSandbox:
        return self.sandboxes[number]

    async def __aenter__(self) -> AsyncForked:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for sandbox in self.sandboxes:
            await sandbox.remove(missing_ok=True)
