"""A daemon, and all it can be asked."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Union

from .._events import Lines
from .._json import plain, query, segment
from .._target import target
from ..models import (
    CommandLine,
    Event,
    Health,
    Missed,
    PoolInfo,
    SandboxInfo,
    SandboxList,
    SandboxState,
    UsageList,
    Version,
)
from ..options import CreateOptions, HoldOptions
from .held import AsyncHeld
from .home import AsyncImages, AsyncSnapshots, AsyncTemplates
from .sandbox import AsyncSandbox
from .transport import AsyncDownload, AsyncTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncClient:
    """The daemon of this machine's user, started if none runs; or, with `base_url` and `api_key`, one over TCP.

    - `base_url`: such as `https://host:7070`; without it the daemon listens at `socket`, by default `hearth.sock` in Hearth's home.
    - `verify`: how a TLS certificate is checked: as usual, by the authorities in a file, by an `ssl.SSLContext`, or (`False`) not at all.
      With a `fingerprint` (`sha256:…`) just the certificate that has it is taken.
    - Where none of these is given, the environment says what it says to the `hearth` command: `HEARTH_HOST`, `HEARTH_API_KEY`, `HEARTH_CA` and
      `HEARTH_FINGERPRINT`, else `HEARTH_HOME`.
    - `start`, `program`: whether `program` starts a daemon where none listens at this machine's socket.
    - `answer_timeout_seconds`: a bound on the silence while an answer is waited for; none by default, since programs may take long.

    Closing it, or leaving its context, ends the sandboxes whose lifespan is their connection.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        verify: bool | str | ssl.SSLContext = True,
        fingerprint: str | None = None,
        socket: str | Path | None = None,
        start: bool = True,
        program: str = "hearth",
        connect_timeout_seconds: float | None = 10.0,
        answer_timeout_seconds: float | None = None,
    ) -> None:
        self._target = target(
            base_url=base_url,
            api_key=api_key,
            verify=verify,
            fingerprint=fingerprint,
            socket=socket,
            start=start,
            program=program,
            connect_timeout_seconds=connect_timeout_seconds,
            answer_timeout_seconds=answer_timeout_seconds,
        )
        self._transport = AsyncTransport(self._target)
        self.snapshots = AsyncSnapshots(self._transport)
        self.templates = AsyncTemplates(self._transport)
        self.images = AsyncImages(self._transport)
        #: The connections that lives of sandboxes hang on.
        self._bonds: set[AsyncTransport] = set()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends its connections."""
        for transport in [*self._bonds, self._transport]:
            await transport.aclose()

    async def health(self) -> Health:
        """Whether the daemon is there, and how much room it has."""
        return await self._transport.ask(Health, "GET", "v1/health")

    async def version(self) -> Version:
        return await self._transport.ask(Version, "GET", "v1/version")

    async def pool(self) -> PoolInfo:
        """What the warm pool holds."""
        return await self._transport.ask(PoolInfo, "GET", "v1/pool")

    async def usage(self) -> UsageList:
        """What sandboxes cost the host, now."""
        return await self._transport.ask(UsageList, "GET", "v1/usage")

    async def metrics(self) -> str:
        """The daemon's figures, in Prometheus' text format."""
        return (await self._transport.fetch("GET", "metrics")).decode()

    async def create(
        self,
        *,
        lifespan: Literal["kept", "connection", "provisional"] = "kept",
        **options: Unpack[CreateOptions],
    ) -> AsyncSandbox:
        """Makes a sandbox, and returns once it takes requests.

        What its `lifespan` hangs on: nothing but its removal (`kept`); this client, so that it goes with this process whatever becomes of
        it (`connection`); the same, until `AsyncSandbox.keep` (`provisional`).
        """
        body = plain({"lifespan": lifespan, **options})
        if lifespan == "kept":
            info = await self._transport.ask(SandboxInfo, "POST", "v1/sandboxes", body=body)
            return AsyncSandbox(self._transport, info, is_made=True)
        bond = AsyncTransport(self._target, among=self._bonds)
        try:
            info = await bond.ask(SandboxInfo, "POST", "v1/sandboxes", body=body)
        except BaseException:
            await bond.aclose()
            raise
        return AsyncSandbox(self._transport, info, is_made=True, bond=bond)

    async def get(self, sandbox: str) -> AsyncSandbox:
        """Finds a sandbox by its id, its name, or the beginning of an id that only one has."""
        info = await self._transport.ask(SandboxInfo, "GET", f"v1/sandboxes/{segment(sandbox)}")
        return AsyncSandbox(self._transport, info, is_made=False)

    async def list(
        self,
        *,
        name: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        states: Iterable[SandboxState] = (),
    ) -> Sequence[SandboxInfo]:
        """Lists sandboxes, the oldest first: those with this part of a name or id, these labels (`None` for any value), in one of these
        states."""
        label = ",".join(key if value is None else f"{key}={value}" for key, value in (labels or {}).items())
        asked = query({"name": name, "label": label or None, "state": ",".join(states) or None})
        return (await self._transport.ask(SandboxList, "GET", "v1/sandboxes", query=asked)).sandboxes

    async def run(
        self, command: CommandLine, *, sandbox: CreateOptions | None = None, **options: Unpack[HoldOptions]
    ) -> AsyncHeld:
        """Makes a sandbox for one program, which begins at once and is held. Letting go of it removes the sandbox."""
        held = AsyncHeld(await self._transport.websocket("/v1/run", {}))
        return await held.begin({"sandbox": sandbox or {}, "exec": {"command": command, **options}})

    async def events(self, *, after: int | None = None, follow: bool = True) -> AsyncEvents:
        """What happens to sandboxes: behind a position (0 for all that are kept), or from now on. Without `follow`, only what is there."""
        asked = query({"after": after, "follow": None if follow else False})
        return AsyncEvents(await self._transport.download("GET", "v1/events", query=asked))


class AsyncEvents:
    """Events as they come. Leaving its context ends that."""

    def __init__(self, download: AsyncDownload) -> None:
        self._download = download

    async def __aenter__(self) -> AsyncEvents:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._download.aclose()

    async def __aiter__(self) -> AsyncIterator[Union[Event, Missed]]:
        lines = Lines()
        async for line in self._download.lines():
            item = lines.take(line)
            if item is not None:
                yield item
