"""A TLS socket for two threads, one that reads and one that writes."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from typing import cast


def shared(tls: ssl.SSLSocket) -> socket.socket:
    """What websockets needs of a socket, for a connection that is encrypted.

    It reads in a thread of its own while another writes. OpenSSL's state of a connection is one thread's at a time, and Pythons before 3.13 do
    not see to that: now and then what is sent first was lost.
    """
    return cast(socket.socket, _Shared(tls))


class _Shared:
    def __init__(self, tls: ssl.SSLSocket) -> None:
        tls.settimeout(0)
        self._tls = tls
        self._lock = threading.Lock()
        self._timeout: float | None = None
        self.family = tls.family

    def recv(self, size: int) -> bytes:
        while True:
            try:
                with self._lock:
                    return self._tls.recv(size)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            try:
                with self._lock:
                    rest = rest[self._tls.send(rest) :]
            except ssl.SSLWantReadError:
                # The reader takes what there is, which may leave nothing to be told of.
                self._wait(select.POLLIN | select.POLLOUT)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)

    def _wait(self, events: int) -> None:
        number = self._tls.fileno()
        if number < 0:
            raise OSError("the connection was closed")
        poll = select.poll()
        poll.register(number, events)
        if not poll.poll(None if self._timeout is None else self._timeout * 1000):
            raise TimeoutError("the daemon did not answer in time")

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._tls.setsockopt(level, option, value)

    def shutdown(self, how: int) -> None:
        self._tls.shutdown(how)

    def fileno(self) -> int:
        return self._tls.fileno()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # Whoever waits to read is told.
            self._tls.shutdown(socket.SHUT_RDWR)
        self._tls.close()
