"""What needs no daemon."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import hearth
from hearth import errors, models
from hearth._archive import pack
from hearth._events import Lines
from hearth._home import home
from hearth._json import parse, place, plain, query, read, segment
from hearth._kernel import line_of
from hearth._target import target

from .conftest import REPOSITORY


def test_the_waiting_client_is_what_the_asyncio_one_makes() -> None:
    made = subprocess.run(
        [sys.executable, REPOSITORY / "clients/python/tools/make_sync.py", "--check"], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr


def test_the_home_is_where_the_command_has_it(tmp_path: Path) -> None:
    assert home({"HEARTH_HOME": "/h", "XDG_DATA_HOME": "/d"}, 7) == Path("/h")
    assert home({"HEARTH_HOME": "", "XDG_DATA_HOME": "/d", "HOME": "/u"}, 7) == Path("/d/hearth")
    assert home({"XDG_DATA_HOME": "d", "HOME": "/u"}, 7) == Path("/u/.local/share/hearth")
    assert home({"HOME": "/u"}, 0) == Path("/var/lib/hearth")
    for environment in ({}, {"HOME": "u"}, {"HEARTH_HOME": "h", "HOME": "/u"}):
        with pytest.raises(errors.InvalidHomeError):
            home(environment, 7)


def test_every_code_of_the_api_has_an_exception() -> None:
    own = (REPOSITORY / "crates/hearth-api/src/error.rs").read_text()
    guest = (REPOSITORY / "crates/hearth-protocol/src/error.rs").read_text()
    bodies = [
        re.search(r"pub enum OwnCode \{(.*?)\n\}", own, re.S),
        re.search(r"pub enum ErrorCode \{(.*?)\n\}", guest, re.S),
    ]
    variants = [name for body in bodies if body for name in re.findall(r"^    ([A-Z]\w+),", body[1], re.M)]
    assert len(variants) > 50
    codes = {re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower() for name in variants}
    assert codes <= set(errors.BY_CODE), codes - set(errors.BY_CODE)


def test_errors_tell_what_they_are_and_whether_a_retry_is_safe() -> None:
    def error(body: object, status: int | None = None) -> errors.HearthError:
        return errors.api_error(body, status)

    taken = error({"code": "name_taken", "message": "m", "field": "name", "hint": "h"}, 409)
    assert isinstance(taken, errors.ConflictError) and (taken.field, taken.hint) == ("name", "h")
    assert taken.retry_is_safe and str(taken) == "name_taken: m (field name); h"
    lost = error({"code": "machine", "message": "m", "outcome": "may_have_run"}, 502)
    assert isinstance(lost, errors.UnavailableError) and not lost.retry_is_safe
    refused = error({"code": "io", "message": "m", "outcome": "never_started"})
    assert refused.retry_is_safe
    # Those of a daemon of tomorrow.
    assert isinstance(error({"code": "new", "message": "m"}, 404), errors.NotFoundError)
    assert isinstance(error({"code": "new", "message": "m"}, 418), errors.InvalidRequestError)
    assert isinstance(error({"code": "new", "message": "m"}, 599), errors.UnavailableError)
    bad: object
    for bad in (None, [], {"code": 5, "message": "m"}, {"code": "x"}):
        assert isinstance(error(bad, 500), errors.BadAnswerError)


def test_answers_may_gain_fields_and_words_and_lose_none() -> None:
    entry = {
        "path": {"hex": "ff"}, "kind": "of_tomorrow", "size": 1, "allocated": 2, "mode": 3, "uid": 4, "gid": 5, "links": 6,
        "modified_ns": 7, "new": True,
    }  # fmt: skip
    found = read(models.FileEntry, entry)
    assert (found.path, found.kind, found.target) == (b"\xff", "unknown", None)
    for key, wrong in (("size", "1"), ("size", None), ("size", True), ("path", 5), ("path", {"hex": "f"})):
        with pytest.raises(errors.BadAnswerError, match=key):
            read(models.FileEntry, {**entry, key: wrong})
    del entry["mode"]
    with pytest.raises(errors.BadAnswerError, match="mode"):
        read(models.FileEntry, entry)
    for text in (b"", b"[]", b"{", b"\xff"):
        with pytest.raises(errors.BadAnswerError):
            parse(models.Version, text)


def test_nested_forms_are_read() -> None:
    status = {"code": 1, "timed_out": False, "out_of_memory": False, "duration_us": 1, "cpu_us": 1}
    process = {"process": 1, "pid": 2, "command": {"argv": ["a", {"hex": "ff"}]}, "output": {"stdout": 0, "stderr": 0}}
    running = read(models.ProcessInfo, {**process, "state": "running"})
    assert running.exit is None and running.command.argv == ["a", b"\xff"]
    ended = read(models.ProcessInfo, {**process, "state": {"exited": status}})
    assert ended.exit is not None and ended.exit.exit_code == 1
    assert read(models.ExitStatus, {**status, "code": None, "signal": 9}).exit_code == 137
    captured = {"encoding": "base64", "data": "/w==", "dropped_bytes": 3, "dropped_after": 0}
    assert read(models.Captured, captured) == models.Captured(b"\xff", 3, 0)
    with pytest.raises(errors.BadAnswerError):
        read(models.Captured, {"encoding": "base64", "data": "/", "dropped_bytes": 0})
    line = line_of(b'{"type":"output","stream":"stderr","encoding":"utf-8","data":"x"}')
    assert line == models.Output("stderr", b"x") and line_of(b'{"type":"of_tomorrow"}') is None
    with pytest.raises(errors.UnavailableError):
        line_of(b'{"type":"failed","error":{"code":"machine","message":"m"}}')


def test_requests_say_what_was_given_and_any_bytes() -> None:
    limits = models.ResourceLimits(pids=5)
    assert plain({"a": None, "b": b"\xff", "c": ["x", b"y"], "d": limits, "e": False}) == {
        "b": {"hex": "ff"}, "c": ["x", "y"], "d": {"pids": 5}, "e": False,
    }  # fmt: skip
    assert plain(models.Restart(when="always", max=3)) == {"always": {"max": 3}}
    assert plain(models.Readiness.of_command(["a"])) == {"type": "command", "command": {"argv": ["a"]}}
    assert plain("\udcff") == {"hex": "ff"} and plain(Path("a/b")) == "a/b"
    assert query({"a": True, "b": None, "c": 5}) == {"a": "true", "c": "5"}
    assert place(b"\xff", "system") == {"path_hex": "ff", "root": "system"}
    assert segment("../x?y z/é") == "%2E%2E%2Fx%3Fy%20z%2F%C3%A9"


def test_a_secret_is_not_shown() -> None:
    assert "hunter2" not in repr(hearth.Secret("A", "hunter2"))
    with hearth.Client("http://127.0.0.1:1", api_key="hunter2") as client:
        assert "hunter2" not in repr(vars(client)) and "hunter2" not in repr(client._target)


def test_events_are_read_line_by_line() -> None:
    lines = Lines()
    text = b'event: missed\ndata: 3\n\n: comment\n\nid: 7\ndata: {"position":7,"at_unix_ms":5,"sandbox":"s","event":"changed"}\n'
    items = [item for line in text.split(b"\n") if (item := lines.take(line)) is not None]
    assert items[0] == models.Missed(3)
    assert isinstance(items[1], models.Event) and items[1].position == 7


def test_a_directory_is_packed_as_it_is_and_with_git_only_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/run.sh").write_bytes(b"x" * 700)
    (tmp_path / "sub/run.sh").chmod(0o755)
    (tmp_path / "link").symlink_to("sub/run.sh")
    (tmp_path / ("n" * 200)).touch()
    subprocess.run(["mkfifo", tmp_path / "pipe"], check=True)

    def packed(tracked: bool) -> dict[str, tarfile.TarInfo]:
        archive = tarfile.open(fileobj=io.BytesIO(b"".join(pack(tmp_path, tracked=tracked))))
        return {member.name: member for member in archive.getmembers()}

    members = packed(False)
    assert set(members) == {"sub", "sub/run.sh", "link", "n" * 200, "pipe"}
    assert (members["sub/run.sh"].size, members["sub/run.sh"].mode) == (700, 0o755)
    assert members["link"].linkname == "sub/run.sh"
    with pytest.raises(hearth.HearthError, match="git"):
        packed(True)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "add", "sub", "link"], check=True)
    assert set(packed(True)) == {"sub/run.sh", "link"}


def test_where_no_daemon_is_and_none_is_to_be_started_that_is_said(tmp_path: Path) -> None:
    for client in (
        hearth.Client(socket=tmp_path / "x.sock"),
        hearth.Client(socket=tmp_path / "hearth.sock", start=False),
    ):
        with client, pytest.raises(errors.NotRunningError) as error:
            client.health()
        assert error.value.retry_is_safe
    with hearth.Client(socket=tmp_path / "hearth.sock", program="no-such-hearth") as client:
        with pytest.raises(errors.NotRunningError, match="no-such-hearth"):
            client.health()
    with hearth.Client(socket=tmp_path / "hearth.sock", program="false") as client:
        with pytest.raises(errors.StartFailedError, match="daemon.log"):
            client.health()


def test_a_daemon_elsewhere_is_named_as_to_the_command() -> None:
    pin = "sha256:" + "0F" * 32
    named = {
        "HEARTH_HOST": "https://box:7070/",
        "HEARTH_API_KEY": "key",
        "HEARTH_FINGERPRINT": pin,
        "HEARTH_HOME": "/h",
    }
    far = target(environment=named)
    assert (far.base_url, far.socket, far.fingerprint) == ("https://box:7070", None, "0f" * 32)
    assert far.headers["authorization"] == "Bearer key" and far.websocket_url == "wss://box:7070"
    # What is said goes before, and a key of the environment's is for the host of the environment's alone.
    assert "authorization" not in target(base_url="https://other", environment=named).headers
    assert target(socket="/s/hearth.sock", environment=named).socket == Path("/s/hearth.sock")
    assert target(environment={**named, "HEARTH_HOST": ""}).socket == Path("/h/hearth.sock")
    for bad in ("ftp://x", "x", "https://", "https://a@x", "https://x/path", "https://x?y"):
        with pytest.raises(ValueError, match="base_url"):
            target(base_url=bad)
    for bad in ("", "0f" * 32, "sha256:0f", "sha256:" + "0g" * 32):
        with pytest.raises(ValueError, match="fingerprint"):
            target(base_url="https://x", fingerprint=bad)
    # A key does not go out for all to read, and nobody believes that a certificate is checked where there is none.
    with pytest.raises(ValueError, match="HEARTH_INSECURE"):
        target(base_url="http://10.0.0.5:1", api_key="key", environment={})
    with pytest.raises(ValueError, match="certificate"):
        target(base_url="http://localhost:1", fingerprint="sha256:" + "0f" * 32)
    for here in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"):
        assert "authorization" in target(base_url=here, api_key="key", environment={}).headers
    assert "authorization" in target(base_url="http://x", api_key="key", environment={"HEARTH_INSECURE": "1"}).headers


def test_the_package_and_hearth_have_one_version() -> None:
    workspace = (REPOSITORY / "Cargo.toml").read_text()
    package = (REPOSITORY / "clients/python/pyproject.toml").read_text()
    versions = [re.search(r'^version = "(.+)"', text, re.M) for text in (workspace, package)]
    assert versions[0] and versions[1] and versions[0][1] == versions[1][1]
