"""Services, ports, secrets, kernels and shells, on a real machine."""

from __future__ import annotations

import socket
import urllib.request

import pytest

import hearth
from hearth import errors, models

SERVER = ["python3", "-u", "-m", "http.server", "8000", "--bind", "127.0.0.1"]


def test_a_service_becomes_ready_is_reached_and_goes_with_its_port(box: hearth.Sandbox) -> None:
    box.files.write("web/index.html", "hello")
    info = box.services.start(
        "web",
        SERVER,
        cwd="/workspace/web",
        readiness=hearth.Readiness.of_http("http://127.0.0.1:8000/"),
        restart=hearth.Restart(when="on_failure", max=2),
    )
    assert info.state == "running" and info.ready_unix_ms and info.readiness and info.readiness.type == "http"
    port = box.ports.publish(8000, service="web")
    assert urllib.request.urlopen(f"http://{port.listen}/").read() == b"hello"
    assert [listed.listen for listed in box.ports.list()] == [port.listen]
    assert [service.name for service in box.services.list()] == ["web"]
    with box.services.logs("web", stream="stderr", tail_lines=1) as log:
        assert b"GET /" in log.read()
    assert box.services.restart("web").pid != info.pid
    assert box.services.inspect("web").state == "running"
    assert box.services.stop("web", grace_ms=100).state == "stopped"
    assert not box.ports.list()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(port.listen.split(":")[1])), timeout=5)
    box.services.remove("web")
    with pytest.raises(errors.NotFoundError) as gone:
        box.services.inspect("web")
    assert gone.value.code == "unknown_name"


def test_a_service_that_does_not_become_ready_says_why(box: hearth.Sandbox) -> None:
    failed = box.services.start("bad", "echo no; exit 1", readiness=hearth.Readiness.of_file("never"))
    assert (failed.state, failed.reason) == ("failed", "process_exited_before_ready")
    with box.services.logs("bad", follow=True) as log:
        assert log.read() == b"no\n"
    box.services.remove("bad")


def test_ports_are_published_and_closed(box: hearth.Sandbox) -> None:
    port = box.ports.publish(9, listen="127.0.0.1:0")
    assert port.guest_port == 9 and not port.listen.endswith(":0")
    box.ports.remove(port)
    with pytest.raises(errors.NotFoundError) as gone:
        box.ports.remove(port)
    assert gone.value.code == "unknown_port"


def test_secrets_are_given_and_hidden(box: hearth.Sandbox) -> None:
    box.secrets.set(hearth.Secret("KEY", "k3y-value-that-hides", file=False))
    assert {secret.name: secret.file for secret in box.secrets.list().secrets} == {"TOKEN": True, "KEY": False}
    said = box.exec('echo "$MINE"; wc -c < "$HEARTH_SECRETS/TOKEN"', secrets={"MINE": "KEY"}).stdout.text
    assert "k3y" not in said and said.endswith("12\n")
    box.secrets.remove("KEY")
    assert [secret.name for secret in box.secrets.list().secrets] == ["TOKEN"]


def test_a_kernel_keeps_its_state_and_tells_what_it_does(box: hearth.Sandbox) -> None:
    kernels = box.kernels
    assert kernels.start("python", imports=["json"]).name == "python"
    kernels.run("x = 20").check()
    outcome = kernels.run("import sys; print('out'); print('err', file=sys.stderr); x + 1").check()
    assert (outcome.stdout, outcome.stderr) == (b"out\n", b"err\n")
    assert outcome.result is not None and outcome.result.text == "21"
    broken = kernels.run("1/0")
    assert broken.error is not None and broken.error.name == "ZeroDivisionError" and "1/0" in broken.error.traceback
    with pytest.raises(hearth.ProgramFailedError, match="ZeroDivisionError"):
        broken.check()
    with kernels.stream("print('begun', flush=True)\nwhile True: pass", timeout_ms=60_000) as running:
        lines = iter(running)
        begun = next(lines)
        assert isinstance(begun, models.Output) and begun.data.startswith(b"begun")
        kernels.interrupt("python")
        assert [line.name for line in lines if isinstance(line, models.KernelError)] == ["KeyboardInterrupt"]
        assert running.ran.interrupted
    assert kernels.run("echo $COLOUR", "bash", kernel="sh").stdout == b"blue\n"
    assert {kernel.name for kernel in kernels.list()} == {"python", "sh"}
    assert kernels.restart("sh").execs >= 0
    for name in ("python", "sh"):
        kernels.remove(name)
    assert not kernels.list()


def test_a_shell_is_typed_at_and_read(box: hearth.Sandbox) -> None:
    shell = box.shells.open("main", command=["bash", "--norc"], size=hearth.PtySize(80, 24), env={"PS1": "> "})
    assert shell.opened is not None and shell.opened.pid > 0
    assert shell.wait(until="prompt", timeout_ms=20_000).reason == "idle"
    assert shell.write("echo $((6*7)); read line", newline=True) == 25
    screen = shell.screen()
    while "42" not in screen.text.splitlines():
        screen = shell.screen(since=screen.next, wait_ms=20_000)
    shell.signal("INT")
    assert not shell.wait(until="prompt", timeout_ms=20_000).job
    piece = shell.output(limit=1_000)
    assert b"42" in piece.data and piece.at == 0 and not piece.ended
    shell.resize(100, 30)
    listed = box.shells.list()
    assert [(each.name, each.size) for each in listed] == [("main", models.PtySize(100, 30))]
    assert box.shells.get("main").close(grace_ms=100).signal is not None
    assert not box.shells.list()
