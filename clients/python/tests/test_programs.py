"""Programs, on a real machine."""

from __future__ import annotations

import threading

import pytest

import hearth
from hearth import errors


def text(held: hearth.Held) -> str:
    return b"".join(piece.data for piece in held if isinstance(piece, hearth.Output)).decode()


def test_a_program_runs_to_its_end_and_tells_all(box: hearth.Sandbox) -> None:
    result = box.exec(["sh", "-c", 'cat; echo "$GREETING $COLOUR" >&2; exit 3'], stdin="in", env={"GREETING": "hi"})
    assert (result.exit_code, result.code, result.signal) == (3, 3, None)
    assert (result.stdout.text, result.stderr.text) == ("in", "hi blue\n")
    assert result.duration_us > 0 and not result.timed_out
    with pytest.raises(hearth.ProgramFailedError, match="hi blue") as failed:
        box.exec("echo hi blue >&2; exit 3", check=True)
    assert failed.value.result.exit_code == 3


def test_output_that_is_no_text_or_too_much_is_told_as_it_is(box: hearth.Sandbox) -> None:
    assert box.exec(["printf", r"\377\0"]).stdout.data == b"\xff\0"
    much = box.exec("head -c 1000 /dev/zero | tr '\\0' x; printf end", max_output_bytes=10)
    assert (much.stdout.data, much.stdout.dropped_bytes, much.stdout.dropped_after) == (b"xxxxxxxend"[-10:], 993, 5)


def test_a_deadline_ends_a_program_and_keeps_what_it_said(box: hearth.Sandbox) -> None:
    late = box.exec("echo early; sleep 60", timeout_ms=300, limits=hearth.ResourceLimits(pids=50))
    assert late.timed_out and late.stdout.text == "early\n" and late.exit_code > 128


def test_packages_come_from_files_of_the_guest_and_what_cannot_be_installed_is_told(box: hearth.Sandbox) -> None:
    with pytest.raises(errors.InvalidRequestError) as bare:
        box.install(["six"])
    assert bare.value.field == "packages"
    with pytest.raises(errors.UnavailableError) as offline:
        box.install(["six==1.16.0"])
    assert offline.value.code == "unavailable" and offline.value.retry_is_safe
    # An installer that is none: what it is asked and what it says go through it as through pip.
    box.files.write("fake/pip/__init__.py", "")
    box.files.write("fake/pip/__main__.py", "import sys; print(*sys.argv[-2:]); sys.exit('no such package')")
    result = box.install(["six>=1,<2"], from_=".", env={"PYTHONPATH": "/workspace/fake"}, timeout_ms=60_000)
    assert result.exit_code == 1 and result.stdout.text == "-- six>=1,<2\n"
    with pytest.raises(hearth.ProgramFailedError, match="no such package"):
        box.install(["six==1"], from_=".", env={"PYTHONPATH": "/workspace/fake"}, check=True)


def test_refusals_of_a_program_are_typed(box: hearth.Sandbox) -> None:
    with pytest.raises(errors.NotFoundError) as missing:
        box.exec(["no-such-program"])
    assert missing.value.code == "command_not_found" and missing.value.retry_is_safe
    with pytest.raises(errors.InvalidRequestError) as wrong:
        box.exec("x", timeout_ms=0)
    assert wrong.value.field == "timeout_ms"
    # The same over a WebSocket.
    with pytest.raises(errors.NotFoundError) as missing:
        box.hold(["no-such-program"])
    assert missing.value.code == "command_not_found"
    with pytest.raises(errors.NotFoundError):
        box.process(4_000_000).attach()


def test_input_of_any_length_comes_through_and_back(box: hearth.Sandbox) -> None:
    data = bytes(range(256)) * 12_000
    with box.hold("cat; exit 3", interactive=True) as cat:
        cat.write(data)
        cat.close_stdin()
        back = b"".join(piece.data for piece in cat if isinstance(piece, hearth.Output))
        assert back == data and cat.wait().exit_code == 3
        assert cat.totals is not None and cat.totals.stdout == cat.positions["stdout"] == len(data)


def test_one_that_is_let_go_of_has_the_input_that_was_waited_for(box: hearth.Sandbox) -> None:
    data = b"z" * 3_000_000
    with box.hold("wc -c", interactive=True) as counted:
        counted.write(data)
        counted.close_stdin()
        counted.drain()
    with box.process(counted.process).attach(stdout=0) as again:
        assert text(again) == f"{len(data)}\n"


def test_one_thread_writes_while_another_reads(box: hearth.Sandbox) -> None:
    data = b"y" * 3_000_000
    with box.hold(["cat"], interactive=True) as cat:

        def feed() -> None:
            cat.write(data)
            cat.close_stdin()

        feeder = threading.Thread(target=feed)
        feeder.start()
        assert len(text(cat)) == len(data)
        feeder.join()


def test_the_last_word_of_a_program_that_reads_no_more_arrives(box: hearth.Sandbox) -> None:
    for _ in range(5):
        with box.hold("head -c 1; echo last; exit 4", interactive=True) as head:
            head.write(b"x" * 300_000)
            head.close_stdin()
            assert text(head) == "xlast\n" and head.wait().exit_code == 4


def test_a_terminal_has_a_size_and_takes_signals(box: hearth.Sandbox) -> None:
    with box.hold("stty size; read x; stty size; sleep 60", pty=hearth.PtySize(columns=80, rows=25)) as terminal:
        pieces = (piece.data for piece in terminal if isinstance(piece, hearth.Output))
        said = b""
        while b"25 80" not in said:
            said += next(pieces)
        terminal.resize(columns=100, rows=30)
        terminal.write(b"go\r")
        while b"30 100" not in said:
            said += next(pieces)
        terminal.signal("INT", "foreground")
        assert terminal.wait().exit_code == 130


def test_a_program_outlives_whoever_held_it_and_is_read_from_any_byte(box: hearth.Sandbox) -> None:
    # That nobody holds it any more is no end of its input either.
    held = box.hold("echo one; read x; echo two $x", interactive=True, tag="durable")
    pieces = (piece.data for piece in held if isinstance(piece, hearth.Output))
    assert next(pieces) == b"one\n"
    positions = held.positions
    held.close()
    program = box.process("durable")
    info = program.inspect()
    assert info is not None and info.exit is None and info.process == held.process
    with program.attach(stdout=positions["stdout"], stderr=positions["stderr"]) as again:
        assert program.write(b"more\n", close=True) == 5
        assert text(again) == "two more\n" and again.wait().exit_code == 0
    first = program.output(limit=4)
    assert (first.data, first.at, first.ended) == (b"one\n", 0, False)
    rest = program.output(start=first.next, wait_ms=1000)
    assert (rest.data, rest.ended, rest.total) == (b"two more\n", True, 13)
    assert box.process("no-such").inspect() is None


def test_a_program_that_was_started_is_listed_and_signalled(box: hearth.Sandbox) -> None:
    sleeping = box.start(["sleep", "60"])
    mine = next(process for process in box.processes() if process.process == sleeping.reference)
    assert mine.exit is None and mine.command.argv == ["sleep", "60"]
    with sleeping.attach() as held:
        sleeping.signal("TERM", "tree")
        assert held.wait().signal == 15
