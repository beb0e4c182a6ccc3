"""The way to the daemon of this machine: found, or else started, as the `hearth` command does it.

Whoever finds no daemon takes the lock of starting, looks again, and starts one whose standard input is that lock, held until it is ready,
whose standard output tells when that is, and whose standard error is its log.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import IO

from .errors import ConnectFailedError, NotRunningError, StartFailedError, WrongPeerError

#: How long a daemon may take to become ready, in seconds.
READY_SECONDS = 60.0


def connected(path: Path) -> socket.socket:
    """Connects to a daemon's socket, and makes sure that this user serves it.

    Raises `NotRunningError`, `WrongPeerError`, `ConnectFailedError`.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        raise NotRunningError(f"no daemon listens at {path}") from error
    except OSError as error:
        connection.close()
        raise ConnectFailedError(f"cannot connect to {path}: {error}") from error
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.geteuid():
        connection.close()
        raise WrongPeerError(f"{path} is served by user {uid}, not by user {os.geteuid()}")
    return connection


def reach(path: Path, program: str | None) -> None:
    """Makes sure that a daemon of this user's listens at a socket; `program` starts one where there is none.

    Raises `NotRunningError` where there is none to start, `StartFailedError`, `WrongPeerError`, `ConnectFailedError`.
    """
    try:
        connected(path).close()
        return
    except NotRunningError as error:
        found = shutil.which(program) if program else None
        if found is None:
            said = f"; {program} is not there to start one" if program else ""
            raise NotRunningError(f"{error}{said}") from error
    try:
        with _starting(path.parent) as lock:
            try:
                # Whoever held the lock before may have started one.
                connected(path).close()
            except NotRunningError:
                _start(found, path.parent, lock)
    except OSError as error:
        raise StartFailedError(f"cannot start the daemon: {error}") from error


def _starting(home: Path) -> IO[str]:
    home.mkdir(parents=True, exist_ok=True)
    (home / "logs").mkdir(mode=0o700, exist_ok=True)
    lock = os.fdopen(os.open(home / "start.lock", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _start(program: str, home: Path, lock: IO[str]) -> None:
    log = home / "logs/daemon.log"
    idle = os.environ.get("HEARTH_DAEMON_IDLE") or "10m"
    with os.fdopen(os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as errors:
        daemon = subprocess.Popen(
            [os.path.abspath(program), "daemon", "--started", "--idle-timeout", idle],
            cwd="/",
            env={**os.environ, "HEARTH_HOME": str(home)},
            stdin=lock,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    # It outlives this process; if it does not, its end is taken note of.
    threading.Thread(target=daemon.wait, name="hearth-daemon-end", daemon=True).start()
    assert daemon.stdout is not None
    with daemon.stdout as told:
        said = _read_to_end(told)
    if said is None:
        daemon.kill()
        raise StartFailedError(f"the daemon was not ready within {READY_SECONDS:.0f} s; its log is {log}")
    if said != b"ready\n":
        reason = said.decode(errors="replace").strip() or "it ended before it was ready"
        raise StartFailedError(f"the daemon could not start: {reason}; its log is {log}")


def _read_to_end(told: IO[bytes]) -> bytes | None:
    end = time.monotonic() + READY_SECONDS
    said = b""
    poll = select.poll()
    poll.register(told, select.POLLIN)
    while True:
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            return None
        piece = os.read(told.fileno(), 4096)
        if not piece:
            return said
        said += piece
