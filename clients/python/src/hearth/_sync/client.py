"""A daemon, and all it can be asked."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Iterable, Mapping, Sequence
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
from .held import Held
from .home import Images, Snapshots, Templates
from .sandbox import Sandbox
from .transport import Download, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Client:
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
        self._transport = Transport(self._target)
        self.snapshots = Snapshots(self._transport)
        self.templates = Templates(self._transport)
        self.images = Images(self._transport)
        #: The connections that lives of sandboxes hang on.
        self._bonds: set[Transport] = set()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends its connections."""
        for transport in [*self._bonds, self._transport]:
            transport.close()

    def health(self) -> Health:
        """Whether the daemon is there, and how much room it has."""
        return self._transport.ask(Health, "GET", "v1/health")

    def version(self) -> Version:
        return self._transport.ask(Version, "GET", "v1/version")

    def pool(self) -> PoolInfo:
        """What the warm pool holds."""
        return self._transport.ask(PoolInfo, "GET", "v1/pool")

    def usage(self) -> UsageList:
        """What sandboxes cost the host, now."""
        return self._transport.ask(UsageList, "GET", "v1/usage")

    def metrics(self) -> str:
        """The daemon's figures, in Prometheus' text format."""
        return (self._transport.fetch("GET", "metrics")).decode()

    def create(
        self,
        *,
        lifespan: Literal["kept", "connection", "provisional"] = "kept",
        **options: Unpack[CreateOptions],
    ) -> Sandbox:
        """Makes a sandbox, and returns once it takes requests.

        What its `lifespan` hangs on: nothing but its removal (`kept`); this client, so that it goes with this process whatever becomes of
        it (`connection`); the same, until `Sandbox.keep` (`provisional`).
        """
        body = plain({"lifespan": lifespan, **options})
        if lifespan == "kept":
            info = self._transport.ask(SandboxInfo, "POST", "v1/sandboxes", body=body)
            return Sandbox(self._transport, info, is_made=True)
        bond = Transport(self._target, among=self._bonds)
        try:
            info = bond.ask(SandboxInfo, "POST", "v1/sandboxes", body=body)
        except BaseException:
            bond.close()
            raise
        return Sandbox(self._transport, info, is_made=True, bond=bond)

    def get(self, sandbox: str) -> Sandbox:
        """Finds a sandbox by its id, its name, or the beginning of an id that only one has."""
        info = self._transport.ask(SandboxInfo, "GET", f"v1/sandboxes/{segment(sandbox)}")
        return Sandbox(self._transport, info, is_made=False)

    def list(
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
        return (self._transport.ask(SandboxList, "GET", "v1/sandboxes", query=asked)).sandboxes

    def run(
        self, command: CommandLine, *, sandbox: CreateOptions | None = None, **options: Unpack[HoldOptions]
    ) -> Held:
        """Makes a sandbox for one program, which begins at once and is held. Letting go of it removes the sandbox."""
        held = Held(self._transport.websocket("/v1/run", {}))
        return held.begin({"sandbox": sandbox or {}, "exec": {"command": command, **options}})

    def events(self, *, after: int | None = None, follow: bool = True) -> Events:
        """What happens to sandboxes: behind a position (0 for all that are kept), or from now on. Without `follow`, only what is there."""
        asked = query({"after": after, "follow": None if follow else False})
        return Events(self._transport.download("GET", "v1/events", query=asked))


class Events:
    """Events as they come. Leaving its context ends that."""

    def __init__(self, download: Download) -> None:
        self._download = download

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._download.close()

    def __iter__(self) -> Iterator[Union[Event, Missed]]:
        lines = Lines()
        for line in self._download.lines():
            item = lines.take(line)
            if item is not None:
                yield item
