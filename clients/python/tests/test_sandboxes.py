"""Sandboxes and the daemon, on real machines."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hearth
from hearth import errors, models

from .conftest import REPOSITORY, asked


def test_the_daemon_tells_what_it_is(client: hearth.Client, box: hearth.Sandbox) -> None:
    assert client.version().api == 1
    assert 1 <= client.health().sandboxes <= client.health().sandboxes_limit
    assert client.pool().ready_limit == 0
    usage = client.usage()
    mine = next(sandbox for sandbox in usage.sandboxes if sandbox.id == box.id)
    assert mine.machine is not None and mine.machine.own_bytes > 0
    assert "hearth_sandboxes" in client.metrics()


def test_a_sandbox_is_found_listed_and_changed(client: hearth.Client, box: hearth.Sandbox) -> None:
    assert client.get("shared").id == client.get(box.id[:12]).id == box.id
    box.change(labels={"team": "a", "tier": "1"}, ttl_seconds=3600, idle=hearth.Idle("pause", 3000))
    assert box.info.expires_unix_ms is not None and box.info.idle == hearth.Idle("pause", 3000)
    assert [info.id for info in client.list(labels={"team": "a", "tier": None}, states=["running"])] == [box.id]
    assert not client.list(labels={"team": "b"}) and not client.list(name="no-such")
    box.change(ttl_seconds=None, idle=None)
    changed = box.inspect()
    assert changed.expires_unix_ms is None and changed.idle is None and changed.labels["tier"] == "1"
    assert isinstance(box.console(), str)


def test_refusals_name_the_field(client: hearth.Client, box: hearth.Sandbox) -> None:
    with pytest.raises(errors.InvalidRequestError) as error:
        client.create(memory_mib=5)
    assert (error.value.code, error.value.field, error.value.status) == ("invalid_value", "memory_mib", 400)
    with pytest.raises(errors.InvalidRequestError) as error:
        client.create(memory=512)  # type: ignore[call-arg]
    assert error.value.field == "memory"
    with pytest.raises(errors.ConflictError) as conflict:
        client.create(name="shared")
    assert (conflict.value.code, conflict.value.field) == ("name_taken", "name")
    with pytest.raises(errors.NotFoundError) as unknown:
        client.get("../no/such?")
    assert unknown.value.code == "unknown_sandbox" and unknown.value.hint


def test_pause_resume_fork_and_snapshot(client: hearth.Client, box: hearth.Sandbox) -> None:
    box.exec("echo here > state", check=True)
    with box.fork(2, name="copy", labels={"of": "shared"}) as copies:
        assert [copy.info.name for copy in copies] == ["copy-1", "copy-2"] and len(copies) == 2
        assert copies.stopped_us > 0 and copies[0].info.labels == {"of": "shared"}
        assert copies[0].files.read_text("state") == "here\n"
        paused = copies[1].pause()
        assert paused.sandbox.state == "paused" and paused.took_us > 0
        assert copies[1].resume().state == "running"
    assert not client.list(labels={"of": None})
    assert box.snapshot("python-base").name == "python-base"
    with client.create(snapshot="python-base") as other:
        assert other.files.read_text("state") == "here\n"
    client.snapshots.remove("python-base")


def test_a_snapshot_is_fetched_and_taken_in_whole_or_not_at_all(client: hearth.Client, box: hearth.Sandbox) -> None:
    box.snapshot("moved")
    info = client.snapshots.get("moved")
    assert client.snapshots.list() == [info] and info.memory_mib == box.info.memory_mib
    with client.snapshots.export("moved") as export:
        content = export.read()
    with pytest.raises(errors.ConflictError) as taken:
        client.snapshots.unpack("moved", content)
    assert (taken.value.code, taken.value.field) == ("name_taken", "name")
    with pytest.raises(errors.InvalidRequestError, match="no whole snapshot"):
        client.snapshots.unpack("back", content[: len(content) // 2])

    def broken() -> Iterator[bytes]:
        yield content[: len(content) // 2]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        client.snapshots.unpack("back", broken())
    assert client.snapshots.list() == [info]
    back = client.snapshots.unpack("back", iter([content[:1000], content[1000:]]))
    assert back.bytes == info.bytes
    client.snapshots.remove("moved")
    with client.create(snapshot="back") as other:
        assert other.exec("true").exit_code == 0
    needed = next(template for template in client.templates.list() if template.id == back.template)
    assert needed.snapshots == ["back"] and needed.machine and needed.machine.image == back.image
    with pytest.raises(errors.ConflictError) as error:
        client.templates.remove(back.template)
    assert error.value.code == "wrong_state"
    client.snapshots.remove("back")
    with pytest.raises(errors.NotFoundError) as unknown:
        client.snapshots.get("back")
    assert unknown.value.code == "unknown_snapshot"


def test_templates_are_made_and_removed_and_images_described(client: hearth.Client) -> None:
    made = client.templates.build()
    assert made.machine is not None and made.in_use and client.templates.build(memory_mib=512).id == made.id
    with pytest.raises(errors.ConflictError) as needed:
        client.templates.remove(made.id)
    assert needed.value.code == "wrong_state"
    # The daemon has not loaded this one.
    build = ["hearth", "template", "build", "--memory", "160M"]
    other = subprocess.run(build, check=True, capture_output=True, text=True).stdout.strip()
    assert {made.id, other} <= {template.id for template in client.templates.list()}
    assert client.templates.remove(other[:40]) == other
    assert other not in {template.id for template in client.templates.list()}
    image = client.images.get("debian")
    assert image.digest == made.machine.image and image in client.images.list()
    assert any(package.name.startswith("python3") for package in image.packages)
    with pytest.raises(errors.NotFoundError) as unknown:
        client.images.remove("no-such-image")
    assert unknown.value.code == "unknown_image"


def test_a_sandbox_goes_with_its_client_unless_it_is_kept(client: hearth.Client) -> None:
    with hearth.Client() as other:
        kept = other.create(lifespan="provisional", name="provisional")
        kept.keep()
        other.create(lifespan="connection", name="bound")
        assert {info.name for info in client.list()} >= {"provisional", "bound"}
        after = max(event.position for event in client.events(after=0, follow=False) if isinstance(event, models.Event))
    with client.events(after=after) as events:
        removed = next(event for event in events if isinstance(event, models.Event) and event.state == "removed")
    assert removed.name == "bound"
    names = {info.name for info in client.list()}
    assert "bound" not in names and "provisional" in names
    client.get("provisional").remove()
    with pytest.raises(errors.NotFoundError):
        client.get("provisional").remove()


def test_a_sandbox_goes_with_a_process_that_is_killed(client: hearth.Client) -> None:
    code = "import hearth, os; hearth.Client().create(lifespan='connection', name='orphan'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with client.events(after=0) as events:
        for event in events:
            if isinstance(event, models.Event) and event.name == "orphan" and event.state == "removed":
                break
    assert "orphan" not in {info.name for info in client.list()}


def test_a_run_has_a_sandbox_of_its_own(client: hearth.Client) -> None:
    with client.run(["sh", "-c", "echo out; echo err >&2; exit 3"], sandbox={"memory_mib": 512}) as run:
        assert run.sandbox is not None
        said = [(piece.stream, piece.data) for piece in run if isinstance(piece, hearth.Output)]
        assert sorted(said) == [("stderr", b"err\n"), ("stdout", b"out\n")]
        assert run.wait().exit_code == 3


def test_a_project_is_seeded_changed_compared_patched_and_reset(box: hearth.Sandbox, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.txt").write_text("one\n")
    box.exec("rm -rf /workspace/*", check=True)
    assert box.seed(tmp_path).members == 2
    box.exec("echo two > src/a.txt; echo new > b.txt", check=True)
    changes = box.changes()
    assert {change.path: change.change for change in changes.changes} == {"src/a.txt": "modified", "b.txt": "created"}
    assert (changes.totals.created, changes.totals.modified) == (1, 1)
    with box.diff() as diff:
        patch = diff.read()
    assert b"-one\n+two\n" in patch
    assert box.reset().restored == 1
    assert box.files.read_text("src/a.txt") == "one\n"
    assert box.patch(patch, check=True).files == 2 and box.files.read_text("src/a.txt") == "one\n"
    assert box.patch(iter([patch[:10], patch[10:]])).hunks == 2
    assert box.files.read_text("b.txt") == "new\n"
    with pytest.raises(errors.ConflictError) as conflict:
        box.patch(patch)
    assert conflict.value.code in ("patch_conflict", "already_exists")
    box.checkpoint("later")
    assert [checkpoint.name for checkpoint in box.checkpoints()] == ["baseline", "later"]
    assert not box.changes("later").changes
    box.remove_checkpoint("later")
    with pytest.raises(errors.NotFoundError):
        box.diff("later")


def test_a_daemon_that_is_killed_is_followed_by_one_that_has_its_sandboxes(
    client: hearth.Client, box: hearth.Sandbox
) -> None:
    with client.create(name="survivor") as survivor:
        counting = survivor.start("for i in 1 2 3; do echo $i; sleep 0.2; done")
        daemon = client.version().pid
        ended = os.pidfd_open(daemon)
        os.kill(daemon, signal.SIGKILL)
        select.select([ended], [], [], 60)
        os.close(ended)
        # The next call finds none, starts the next, and it has what was there.
        assert client.get("survivor").id == survivor.id and client.version().pid != daemon
        with counting.attach() as held:
            assert b"".join(piece.data for piece in held if isinstance(piece, hearth.Output)) == b"1\n2\n3\n"


DESCRIPTION = REPOSITORY / "docs/openapi.json"


def routes() -> set[tuple[str, str]]:
    """What the daemon serves, as its description has it."""
    paths = json.loads(DESCRIPTION.read_text())["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    return {(method, re.sub(r"\{\w+\}", "{}", path.lstrip("/"))) for method, path in served if path != "/openapi.json"}


def test_every_route_of_the_daemon_was_asked_and_answered(
    request: pytest.FixtureRequest, client: hearth.Client
) -> None:
    if len({item.path for item in request.session.items}) < 5:
        pytest.skip("not all tests have run")
    served = routes()
    assert len(served) > 70, "the daemon's routes were not found"
    # The one image is what all start from.
    assert served - asked == {("DELETE", "v1/images/{}")}
