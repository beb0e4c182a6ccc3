"""Services of a guest, ports that lead into it, and its secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._json import plain, query, segment
from ..models import (
    CommandLine,
    Port,
    PortList,
    Secret,
    SecretList,
    ServiceInfo,
    ServiceList,
    StreamName,
)
from ..options import ServiceOptions
from .transport import AsyncDownload, AsyncTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncServices:
    """The services of a sandbox: programs with a name, a readiness and a log."""

    def __init__(self, transport: AsyncTransport, sandbox: str) -> None:
        self._transport = transport
        self._path = f"{sandbox}/services"

    async def start(self, name: str, command: CommandLine, **options: Unpack[ServiceOptions]) -> ServiceInfo:
        """Starts a service, and returns once it is ready, has failed, or is to be tried again: its `state` tells."""
        body = plain({"name": name, "command": command, **options})
        return await self._transport.ask(ServiceInfo, "POST", self._path, body=body)

    async def list(self) -> Sequence[ServiceInfo]:
        return (await self._transport.ask(ServiceList, "GET", self._path)).services

    async def inspect(self, name: str) -> ServiceInfo:
        return await self._transport.ask(ServiceInfo, "GET", f"{self._path}/{segment(name)}")

    async def stop(self, name: str, *, grace_ms: int | None = None) -> ServiceInfo:
        """Stops a service and all that it has started; its ports are closed."""
        body = plain({"grace_ms": grace_ms})
        return await self._transport.ask(ServiceInfo, "POST", f"{self._path}/{segment(name)}/stop", body=body)

    async def restart(self, name: str) -> ServiceInfo:
        """Stops a service if it runs, and starts it as it was started."""
        return await self._transport.ask(ServiceInfo, "POST", f"{self._path}/{segment(name)}/restart")

    async def remove(self, name: str) -> None:
        """Stops a service if it runs, and forgets it and its log."""
        await self._transport.fetch("DELETE", f"{self._path}/{segment(name)}")

    async def logs(
        self,
        name: str,
        *,
        stream: StreamName | None = None,
        tail_lines: int | None = None,
        since_stdout: int | None = None,
        since_stderr: int | None = None,
        follow: bool = False,
    ) -> AsyncDownload:
        """Its log, as it comes; `follow` goes on until the service has ended."""
        asked = query(
            {
                "stream": stream,
                "tail_lines": tail_lines,
                "since_stdout": since_stdout,
                "since_stderr": since_stderr,
                "follow": follow or None,
            }
        )
        return await self._transport.download("GET", f"{self._path}/{segment(name)}/logs", query=asked)


class AsyncPorts:
    """Ports of the daemon's host that lead into a sandbox."""

    def __init__(self, transport: AsyncTransport, sandbox: str) -> None:
        self._transport = transport
        self._path = f"{sandbox}/ports"

    async def publish(
        self, guest_port: int, *, listen: str | None = None, guest_host: str | None = None, service: str | None = None
    ) -> Port:
        """Publishes a port, by default on any free one of 127.0.0.1; `listen` of what it returns says where."""
        body = plain({"guest_port": guest_port, "listen": listen, "guest_host": guest_host, "service": service})
        return await self._transport.ask(Port, "POST", self._path, body=body)

    async def list(self) -> Sequence[Port]:
        return (await self._transport.ask(PortList, "GET", self._path)).ports

    async def remove(self, port: Port | int) -> None:
        """Closes a port, named by its number on the host."""
        number = int(port.listen.rpartition(":")[2]) if isinstance(port, Port) else port
        await self._transport.fetch("DELETE", f"{self._path}/{number}")


class AsyncSecrets:
    """The secrets of a sandbox. Nothing gives their values back."""

    def __init__(self, transport: AsyncTransport, sandbox: str) -> None:
        self._transport = transport
        self._path = f"{sandbox}/secrets"

    async def set(self, *secrets: Secret) -> None:
        """Adds secrets, or gives them new values, all or none."""
        await self._transport.fetch("PUT", self._path, body=plain({"secrets": secrets}))

    async def list(self) -> SecretList:
        return await self._transport.ask(SecretList, "GET", self._path)

    async def remove(self, name: str) -> None:
        await self._transport.fetch("DELETE", f"{self._path}/{segment(name)}")
