"""Files and trees, on a real machine."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest

import hearth
from hearth import errors


@pytest.fixture(autouse=True)
def clean(box: hearth.Sandbox) -> Iterator[None]:
    yield
    box.files.remove("t", recursive=True, missing_ok=True)


def test_files_are_written_whole_or_not_at_all_and_read_in_part(box: hearth.Sandbox) -> None:
    files = box.files
    assert files.write("t/a", "text", mode=0o600).mode == 0o600
    files.write("t/a", b"\xff", append=True)
    assert files.read("t/a") == b"text\xff" and files.read("t/a", offset=1, length=2) == b"ex"
    content = bytes(range(256)) * 4096
    files.write("t/big", io.BytesIO(content))
    with files.open("t/big") as big:
        assert b"".join(big) == content

    def breaking() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        files.write("t/a", breaking())
    assert files.read("t/a") == b"text\xff"
    with pytest.raises(errors.ConflictError) as there:
        files.write("t/a", "", create="new")
    assert there.value.code == "already_exists"
    with pytest.raises(errors.ForbiddenError) as outside:
        files.read("../etc/passwd")
    assert outside.value.code == "outside_root"
    assert b"root:" in files.read("/etc/passwd", root="system")


def test_names_are_any_bytes(box: hearth.Sandbox) -> None:
    name = b"t/\xff \xc3\xa9?&#%2F"
    assert box.files.write(name, "x").path == name
    assert box.files.read(name) == b"x" and box.files.stat(name).size == 1
    listed = box.files.list("t")
    assert [entry.path for entry in listed.entries] == [name]


def test_trees_are_listed_page_by_page_moved_copied_and_removed(box: hearth.Sandbox) -> None:
    files = box.files
    assert files.mkdir("t/one/two", parents=True).kind == "directory"
    for number in range(3):
        files.write(f"t/one/{number}", "x")
    page = files.list("t", recursive=True, limit=2)
    rest = files.list("t", recursive=True, after=page.next)
    paths = [entry.path for entry in [*page.entries, *rest.entries]]
    assert paths == ["t/one", "t/one/0", "t/one/1", "t/one/2", "t/one/two"] and rest.next is None
    assert files.copy("t/one", "t/copy") == 5
    assert files.move("t/copy/0", "t/moved").path == "t/moved"
    assert files.symlink("t/link", "moved").target == "moved"
    assert files.chmod("t/one", 0o640, recursive=True, directory_mode=0o750) == 5
    assert (files.stat("t/one").mode, files.stat("t/one/0").mode) == (0o750, 0o640)
    with pytest.raises(errors.ConflictError) as full:
        files.remove("t/one")
    assert full.value.code == "not_empty"
    assert files.remove("t/one", recursive=True) == 5 and files.remove("t/no-such", missing_ok=True) == 0


def test_texts_are_replaced_and_found(box: hearth.Sandbox) -> None:
    files = box.files
    files.write("t/a.py", "alpha\nbeta\nalpha\n")
    edited = files.edit(
        "t/a.py", [hearth.TextEdit(old="beta", new="gamma"), hearth.TextEdit(old="alpha", new="a", all=True)]
    )
    assert edited.replaced == 3 and files.read_text("t/a.py") == "a\ngamma\na\n"
    with pytest.raises(errors.ApiError):
        files.edit("t/a.py", [hearth.TextEdit(old="a\n", new="")])
    found = files.search("t", "ga(m+)a", globs=["*.py"], before=1)
    assert found.matches == 1 and [(line.line, line.text, line.spans) for line in found.lines] == [
        (1, "a", []),
        (2, "gamma", [(0, 5)]),
    ]


def test_trees_come_and_go_as_archives(box: hearth.Sandbox) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name in ("a", "sub/b"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
    unpacked = box.files.unpack(io.BytesIO(made.getvalue()), "t")
    assert (unpacked.members, unpacked.bytes) == (2, 8)
    with box.files.export("t", compression="gzip") as tree, tarfile.open(fileobj=io.BytesIO(tree.read())) as archive:
        assert {"a", "sub/b"} <= set(archive.getnames())
    with box.files.export("t", only=["sub/b"]) as part, tarfile.open(fileobj=io.BytesIO(part.read())) as archive:
        assert archive.getnames() == ["sub/b"]
    with pytest.raises(errors.InvalidRequestError) as bad:
        box.files.unpack(b"no archive", "t")
    assert bad.value.code == "bad_archive"
