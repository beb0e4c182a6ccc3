"""Where a daemon is, and how to get there: a Unix socket of this machine's, or a URL with an API key."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ._daemon import reach
from ._home import SOCKET, home

#: The largest message over a WebSocket either way, in bytes.
MESSAGE = 1024 * 1024 + 1024
#: The longest answer that is read whole, in bytes.
ANSWER = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Target:
    base_url: str
    #: The socket, where it is one of this machine's.
    socket: Path | None
    #: What starts a daemon where none listens at the socket.
    program: str | None
    headers: dict[str, str] = field(repr=False)
    verify: bool | ssl.SSLContext
    connect_timeout_seconds: float | None
    answer_timeout_seconds: float | None

    @property
    def websocket_url(self) -> str:
        return "ws" + self.base_url.removeprefix("http")

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How a WebSocket is encrypted; `None` where it is not."""
        if not self.base_url.startswith("https:"):
            return None
        if isinstance(self.verify, ssl.SSLContext):
            return self.verify
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def reach(self) -> None:
        """Makes sure that there is a daemon, as far as that can be done."""
        if self.socket is not None:
            reach(self.socket, self.program)


def target(
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    verify: bool | str | ssl.SSLContext = True,
    socket: str | Path | None = None,
    start: bool = True,
    program: str = "hearth",
    connect_timeout_seconds: float | None = 10.0,
    answer_timeout_seconds: float | None = None,
) -> Target:
    """Names a daemon. Connects to nothing yet."""
    headers = {"accept-encoding": "identity"}
    if base_url is not None:
        if socket is not None:
            raise ValueError("base_url and socket exclude each other")
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise ValueError(f"base_url must begin with http:// or https://, unlike {base_url!r}")
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        path, starter = None, None
    else:
        # A key is for a daemon over TCP; one on this user's socket asks for none.
        base_url, path = "http://hearth", Path(socket) if socket is not None else home() / SOCKET
        # A daemon has its socket in its home, under just that name.
        starter = program if start and path.name == SOCKET else None
    return Target(
        base_url=base_url.rstrip("/"),
        socket=path,
        program=starter,
        headers=headers,
        verify=ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify,
        connect_timeout_seconds=connect_timeout_seconds,
        answer_timeout_seconds=answer_timeout_seconds,
    )
