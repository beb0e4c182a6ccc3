"""Kernels of a guest: interpreters that keep their state between two pieces of code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Union

from .._json import plain, segment
from .._kernel import Collected, line_of
from ..errors import BadAnswerError
from ..models import KernelError, KernelInfo, KernelList, KernelOutcome, KernelRan, KernelValue, Language, Output
from ..options import CodeOptions, KernelOptions
from .transport import AsyncDownload, AsyncTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: What code does.
KernelLine = Union[Output, KernelValue, KernelError]


class AsyncKernels:
    """The kernels of a sandbox."""

    def __init__(self, transport: AsyncTransport, sandbox: str) -> None:
        self._transport = transport
        self._path = f"{sandbox}/kernels"

    async def start(self, language: Language, name: str | None = None, **options: Unpack[KernelOptions]) -> KernelInfo:
        """Starts a kernel ahead of its first code. One that is there already stays as it is."""
        body = plain({"language": language, "name": name, **options})
        return await self._transport.ask(KernelInfo, "POST", self._path, body=body)

    async def list(self) -> Sequence[KernelInfo]:
        return (await self._transport.ask(KernelList, "GET", self._path)).kernels

    async def run(
        self, code: str, language: Language = "python", *, kernel: str | None = None, **options: Unpack[CodeOptions]
    ) -> KernelOutcome:
        """Runs code in a kernel, named after its language by default, which is started if it is not there; waits for its end."""
        collected = Collected()
        async with await self.stream(code, language, kernel=kernel, **options) as running:
            async for line in running:
                collected.add(line)
            return collected.outcome(running.ran)

    async def stream(
        self, code: str, language: Language = "python", *, kernel: str | None = None, **options: Unpack[CodeOptions]
    ) -> AsyncKernelRun:
        """As `run`, with what the code does as it does it. Letting go of it does not end the code; `interrupt` does."""
        path = f"{self._path}/{segment(language if kernel is None else kernel)}/exec"
        body = plain({"language": language, "code": code, **options})
        return AsyncKernelRun(await self._transport.download("POST", path, body=body))

    async def interrupt(self, name: str) -> None:
        """Interrupts the code that runs, if any does. Code that goes on all the same is ended by `restart`."""
        await self._transport.fetch("POST", f"{self._path}/{segment(name)}/interrupt")

    async def restart(self, name: str) -> KernelInfo:
        """Ends the interpreter and all it has started, and starts a fresh one."""
        return await self._transport.ask(KernelInfo, "POST", f"{self._path}/{segment(name)}/restart")

    async def remove(self, name: str) -> None:
        await self._transport.fetch("DELETE", f"{self._path}/{segment(name)}")


class AsyncKernelRun:
    """Code that runs. Iterating over it gives what it does, until it has ended; `ran` then says how."""

    def __init__(self, download: AsyncDownload) -> None:
        self._download = download
        self._ran: KernelRan | None = None

    async def __aenter__(self) -> AsyncKernelRun:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._download.aclose()

    @property
    def ran(self) -> KernelRan:
        """How it ended. Raises `BadAnswerError` before it has."""
        if self._ran is None:
            raise BadAnswerError("the code has not ended, as far as the daemon has told")
        return self._ran

    async def __aiter__(self) -> AsyncIterator[KernelLine]:
        async for text in self._download.lines():
            line = line_of(text)
            if isinstance(line, KernelRan):
                self._ran = line
            elif line is not None:
                yield line
