"""Where a daemon is, and how to get there: a Unix socket of this machine's, or a URL with an API key."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ._daemon import reach
from ._home import SOCKET, home
from .errors import ConnectFailedError, WrongPeerError

#: The largest message over a WebSocket either way, in bytes.
MESSAGE = 1024 * 1024 + 1024
#: The longest answer that is read whole, in bytes.
ANSWER = 64 * 1024 * 1024
_SHA256 = "sha256:"


@dataclass(frozen=True, kw_only=True)
class Target:
    base_url: str
    #: The socket, where it is one of this machine's.
    socket: Path | None
    #: What starts a daemon where none listens at the socket.
    program: str | None
    headers: dict[str, str] = field(repr=False)
    verify: bool | ssl.SSLContext
    #: The digest of the one certificate that is taken, whatever it says.
    fingerprint: str | None
    connect_timeout_seconds: float | None
    answer_timeout_seconds: float | None

    @property
    def websocket_url(self) -> str:
        return "ws" + self.base_url.removeprefix("http")

    @functools.cached_property
    def trust(self) -> bool | ssl.SSLContext:
        """Whose certificate is taken. May connect, and block."""
        if self.fingerprint is None or not self._is_tls:
            return self.verify
        return _pinned(self.base_url, self.fingerprint, self.connect_timeout_seconds)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How a WebSocket is encrypted; `None` where it is not. As `trust`."""
        if not self._is_tls:
            return None
        trust = self.trust
        if isinstance(trust, ssl.SSLContext):
            return trust
        context = ssl.create_default_context()
        if not trust:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    @property
    def _is_tls(self) -> bool:
        return self.base_url.startswith("https:")

    def reach(self) -> None:
        """Makes sure that there is a daemon, the right one, as far as that can be done."""
        if self.socket is not None:
            reach(self.socket, self.program)
        _ = self.trust


def target(
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    verify: bool | str | ssl.SSLContext = True,
    fingerprint: str | None = None,
    socket: str | Path | None = None,
    start: bool = True,
    program: str = "hearth",
    connect_timeout_seconds: float | None = 10.0,
    answer_timeout_seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Target:
    """Names a daemon. Connects to nothing yet."""
    environment = os.environ if environment is None else environment
    if base_url is None and socket is None and environment.get("HEARTH_HOST"):
        # A key of the environment's is for the host of the environment's, and goes nowhere else.
        base_url = environment["HEARTH_HOST"]
        api_key = api_key or environment.get("HEARTH_API_KEY") or None
        fingerprint = fingerprint or environment.get("HEARTH_FINGERPRINT") or None
        verify = environment.get("HEARTH_CA") or verify if verify is True else verify
    headers = {"accept-encoding": "identity"}
    if base_url is not None:
        if socket is not None:
            raise ValueError("base_url and socket exclude each other")
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.path.strip("/") or url.query:
            raise ValueError(f"base_url must be https://HOST[:PORT], or http:// and the same, unlike {base_url!r}")
        if url.scheme == "http":
            if fingerprint is not None:
                raise ValueError("only with https:// has a daemon a certificate whose fingerprint can be checked")
            if api_key is not None and not _is_this_machine(url.hostname) and not environment.get("HEARTH_INSECURE"):
                raise ValueError("a key would go there for all to read: use https://, or set HEARTH_INSECURE=1")
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        path, starter = None, None
    else:
        # A key is for a daemon over TCP; one on this user's socket asks for none.
        base_url, path = "http://hearth", Path(socket) if socket is not None else home(environment) / SOCKET
        # A daemon has its socket in its home, under just that name.
        starter = program if start and path.name == SOCKET else None
    return Target(
        base_url=base_url.rstrip("/"),
        socket=path,
        program=starter,
        headers=headers,
        verify=ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify,
        fingerprint=None if fingerprint is None else _digest(fingerprint),
        connect_timeout_seconds=connect_timeout_seconds,
        answer_timeout_seconds=answer_timeout_seconds,
    )


def _is_this_machine(host: str) -> bool:
    """Whether nobody else can listen to what is said to a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _digest(fingerprint: str) -> str:
    digits = fingerprint.removeprefix(_SHA256).lower()
    if not fingerprint.startswith(_SHA256) or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError(f"a fingerprint is {_SHA256} and 64 hexadecimal digits, unlike {fingerprint!r}")
    return digits


def _pinned(url: str, digest: str, timeout: float | None) -> ssl.SSLContext:
    """A context that takes one certificate and no other: the one with this digest, which is fetched first. Whoever shows it later must have its
    key, so it does not matter who gave it away.
    """
    parts = urlsplit(url)
    try:
        shown = ssl.get_server_certificate((parts.hostname or "", parts.port or 443), timeout=timeout or 60.0)
    except OSError as error:
        raise ConnectFailedError(f"cannot connect to {url}: {error}") from error
    certificate = ssl.PEM_cert_to_DER_cert(shown)
    if hashlib.sha256(certificate).hexdigest() != digest:
        raise WrongPeerError(f"the certificate of {url} has another fingerprint")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context
