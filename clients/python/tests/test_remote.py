"""A daemon over TCP: its key and its certificate."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hearth
from hearth import errors


@dataclass
class Listening:
    url: str
    fingerprint: str
    key: str
    certificate: Path


@pytest.fixture(scope="module")
def far(client: hearth.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A daemon with a home of its own over the same images."""
    if subprocess.run(["hearth", "key", "--help"], capture_output=True).returncode != 0:
        pytest.skip("this hearth does not listen on TCP")
    first, own = hearth.home(), tmp_path_factory.mktemp("far")
    for shared in ("store", "templates"):
        (own / shared).symlink_to((first / shared).resolve())
    shutil.copy(first / "findings.json", own)
    environment = {**os.environ, "HEARTH_HOME": str(own)}
    command = ["hearth", "daemon", "--listen", "127.0.0.1:0", "--tls"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stderr is not None
            told = next(line for line in daemon.stderr if "listens on https" in line)
            key = subprocess.run(
                ["hearth", "key", "create", "tests"], env=environment, capture_output=True, text=True, check=True
            )
            url = told.split("listens on ")[1].split(",")[0]
            fingerprint = told.split("certificate ")[1].strip()
            yield Listening(url, fingerprint, key.stdout.strip(), own / "tls/certificate.pem")
        finally:
            daemon.terminate()
            daemon.communicate()


def test_a_daemon_elsewhere_is_used_as_one_here(far: Listening) -> None:
    with hearth.Client(far.url, api_key=far.key, fingerprint=far.fingerprint) as client:
        with client.create(lifespan="connection") as box:
            assert box.exec(["echo", "far"]).stdout.text == "far\n"
            with box.hold(["cat"], interactive=True) as cat:
                cat.write(b"x" * 300_000)
                cat.close_stdin()
                assert sum(len(piece.data) for piece in cat if isinstance(piece, hearth.Output)) == 300_000
            with box.hold("head -c 1; echo last", interactive=True) as head:
                head.write(b"x" * 300_000)
                last = b"".join(piece.data for piece in head if isinstance(piece, hearth.Output))
                assert last == b"xlast\n"

    async def same() -> None:
        async with hearth.AsyncClient(far.url, api_key=far.key, verify=str(far.certificate)) as client:
            assert not await client.list()
            async with await client.run(["echo", "far"]) as run:
                assert (await run.wait()).exit_code == 0

    asyncio.run(same())


def test_who_has_no_key_or_meets_a_stranger_is_told(far: Listening) -> None:
    for key in (None, "hearth_wrong"):
        with hearth.Client(far.url, api_key=key, fingerprint=far.fingerprint) as client:
            with pytest.raises(errors.UnauthorizedError) as refused:
                client.list()
            assert (refused.value.code, refused.value.status) == ("unauthorized", 401)
            with pytest.raises(errors.UnauthorizedError):
                client.run(["true"])
    with hearth.Client(far.url, api_key=far.key, fingerprint="sha256:" + "0" * 64) as client:
        with pytest.raises(errors.WrongPeerError):
            client.list()
        with pytest.raises(errors.WrongPeerError):
            client.run(["true"])
    with hearth.Client(far.url, api_key=far.key) as client:
        with pytest.raises(errors.ConnectFailedError, match="certificate"):
            client.list()
        with pytest.raises(errors.ConnectFailedError, match="certificate"):
            client.run(["true"])
