"""Hearth's MCP server as the official Python client sees it.

usage: client.py HEARTH stdio|http legacy|auto [CASE...]

HEARTH_HOME names a home with an image. Each function whose name says what is true is a case; they share one sandbox, and print their names.
"""

import base64
import contextlib
import json
import os
import signal
import sys
import time
from functools import partial

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

HEARTH, TRANSPORT, MODE = sys.argv[1:4]
HOME = os.environ["HEARTH_HOME"]
CORE = {
    "run", "sandbox_create", "sandbox_list", "sandbox_remove", "exec", "process_start", "process_wait", "process_output",
    "process_cancel", "process_list", "file_read", "file_write", "file_edit", "file_list", "file_search", "file_remove", "diff",
    "patch", "reset",
}


@contextlib.asynccontextmanager
async def connected(profile="core"):
    if TRANSPORT == "stdio":
        env = {name: value for name, value in os.environ.items() if name.startswith("HEARTH") or name == "PATH"}
        arguments = ["mcp"] if profile == "core" else ["mcp", "--profile", profile]
        async with Client(stdio_client(StdioServerParameters(command=HEARTH, args=arguments, env=env)), mode=MODE) as client:
            yield client
    else:
        path = "/mcp" if profile == "core" else f"/mcp/{profile}"
        transport = httpx2.AsyncHTTPTransport(uds=f"{HOME}/hearth.sock")
        async with httpx2.AsyncClient(transport=transport, timeout=120) as http:
            async with Client(streamable_http_client(f"http://localhost{path}", http_client=http), mode=MODE) as client:
                yield client


async def call(client, tool, /, **arguments):
    """Calls a tool that is to succeed; the client itself holds the result against the tool's output schema."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, (tool, result.content[0].text)
    assert json.loads(result.content[0].text) == result.structured_content or len(json.dumps(result.structured_content)) > 30000
    return result.structured_content


async def refused(client, tool, code, field=None, /, **arguments):
    result = await client.call_tool(tool, arguments)
    assert result.is_error, (tool, arguments, result)
    error = json.loads(result.content[0].text)
    assert error["code"] == code and error["message"], (tool, arguments, error)
    assert field is None or error.get("field") == field, (tool, arguments, error)
    return error


async def each_profile_shows_its_tools_with_strict_schemas(client, _):
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == CORE, set(tools) ^ CORE
    for tool in tools.values():
        assert tool.input_schema["additionalProperties"] is False and tool.output_schema["type"] == "object", tool
        assert tool.annotations.read_only_hint is not None and tool.annotations.destructive_hint is not None
    assert tools["file_read"].annotations.read_only_hint and tools["sandbox_remove"].annotations.destructive_hint
    async with connected("run") as small:
        assert [tool.name for tool in (await small.list_tools()).tools] == ["run"]
        assert (await call(small, "run", code="print(6 * 7)"))["stdout"]["text"] == "42\n"
    assert client.server_info.name == "hearth"


async def a_run_has_output_and_code_and_a_named_sandbox_keeps_files(client, _):
    ran = await call(client, "run", command="echo out; echo err >&2; exit 3")
    assert (ran["exit_code"], ran["stdout"]["text"], ran["stderr"]["text"]) == (3, "out\n", "err\n"), ran
    assert "sandbox" not in ran
    await call(client, "run", sandbox="mcp-named", code="echo $((1 + 1)) > kept", language="bash")
    ran = await call(client, "run", sandbox="mcp-named", command=["cat", "kept", "-"], stdin="more")
    assert (ran["stdout"]["text"], ran["sandbox"]) == ("2\nmore", "mcp-named"), ran
    await call(client, "sandbox_remove", sandbox="mcp-named")
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(partial(call, client, "run", sandbox="mcp-shared", command=f"echo {number} >> kept"))
    ran = await call(client, "run", sandbox="mcp-shared", command="sort kept")
    assert ran["stdout"]["text"] == "0\n1\n2\n", ran
    await call(client, "sandbox_remove", sandbox="mcp-shared")
    ran = await call(client, "run", command="echo begun; sleep 1000", timeout_ms=500)
    assert ran["timed_out"] and ran["stdout"]["text"] == "begun\n", ran
    await refused(client, "run", "invalid_value", "command")
    await refused(client, "run", "invalid_value", "code", command="x", code="y")


async def bad_arguments_are_errors_that_name_the_field(client, box):
    await refused(client, "exec", "invalid_request", "nope", sandbox=box, command="true", nope=1)
    await refused(client, "exec", "invalid_request", "command", sandbox=box)
    await refused(client, "exec", "invalid_request", "command", sandbox=box, command=5)
    await refused(client, "exec", "invalid_request", "wait_ms", sandbox=box, command="true", wait_ms="5")
    await refused(client, "exec", "invalid_value", "wait_ms", sandbox=box, command="true", wait_ms=600001)
    await refused(client, "exec", "invalid_value", "sandbox", sandbox="", command="true")
    await refused(client, "sandbox_create", "invalid_value", "memory_mib", memory_mib=5)
    await refused(client, "sandbox_create", "invalid_value", "name", name="not a name")
    await refused(client, "sandbox_create", "name_taken", "name", name=box)
    await refused(client, "sandbox_create", "unknown_image", "image", image="nowhere")
    await refused(client, "exec", "unknown_sandbox", sandbox="nobody", command="true")
    await refused(client, "exec", "command_not_found", sandbox=box, command=["no-such-program"])
    await refused(client, "process_wait", "unknown_process", sandbox=box, process=999999)
    await refused(client, "file_edit", "invalid_request", "edits[0].ald", sandbox=box, path="x", edits=[{"ald": "a", "new": "b"}])
    for path in ["../etc/hostname", "/etc/hostname"]:
        await refused(client, "file_read", "outside_root", sandbox=box, path=path)
    try:
        await client.call_tool("no_such_tool", {})
        raise AssertionError("an unknown tool was called")
    except MCPError as error:
        assert "no_such_tool" in str(error)


async def files_are_written_read_edited_searched_and_patched(client, box):
    written = await call(client, "file_write", sandbox=box, path="src/a.py", content="x = 1\ny = 'ä'\n", executable=True)
    assert written["mode"] == "0755" and written["size"] == 15, written
    await refused(client, "file_write", "already_exists", sandbox=box, path="src/a.py", content="", create="new")
    read = await call(client, "file_read", sandbox=box, path="src/a.py", length=12)
    assert (read["text"], read["next_offset"], read["size"]) == ("x = 1\ny = '", 11, 15), read
    await call(client, "file_write", sandbox=box, path="b.bin", content=base64.b64encode(b"\xff\0\1").decode(), encoding="base64")
    read = await call(client, "file_read", sandbox=box, path="b.bin")
    assert (base64.b64decode(read["text"]), read["encoding"]) == (b"\xff\0\1", "base64"), read
    edited = await call(client, "file_edit", sandbox=box, path="src/a.py", edits=[{"old": "x = 1", "new": "x = 2"}])
    assert edited["replaced"] == 1
    found = await call(client, "file_search", sandbox=box, pattern="x = [0-9]", globs=["*.py"])
    assert [(line["path"], line["line"], line["text"]) for line in found["lines"]] == [("src/a.py", 1, "x = 2")], found
    listed = await call(client, "file_list", sandbox=box, recursive=True, limit=2)
    assert [entry["path"] for entry in listed["entries"]] == ["b.bin", "src"] and listed["next"], listed
    listed = await call(client, "file_list", sandbox=box, recursive=True, after=listed["next"])
    assert [entry["path"] for entry in listed["entries"]] == ["src/a.py"], listed

    diff = await call(client, "diff", sandbox=box)
    assert diff["created"] == 2 and "+x = 2" in diff["patch"] and diff["patch_bytes"] == len(diff["patch"].encode()), diff
    short = await call(client, "diff", sandbox=box, max_patch_bytes=40)
    assert len(short["patch"].encode()) <= 40 and short["patch_bytes"] == diff["patch_bytes"] and short["patch_rest"], short
    await call(client, "reset", sandbox=box)
    assert (await call(client, "file_list", sandbox=box))["entries"] == []
    assert await call(client, "patch", sandbox=box, patch=diff["patch"], check=True) == {"applied": False, "files": 2, "hunks": 2, "moved": 0}
    await call(client, "patch", sandbox=box, patch=diff["patch"])
    assert (await call(client, "diff", sandbox=box))["patch"] == diff["patch"]
    await refused(client, "patch", "patch_conflict", sandbox=box, patch="--- a/src/a.py\n+++ b/src/a.py\n@@ -1 +1 @@\n-q\n+r\n")
    await call(client, "file_write", sandbox=box, path="latin1", content=base64.b64encode(b"\xe4\n").decode(), encoding="base64")
    diff = await call(client, "diff", sandbox=box)
    assert diff["patch_encoding"] == "base64" and b"+\xe4\n" in base64.b64decode(diff["patch"]), diff
    await call(client, "patch", sandbox=box, patch=diff["patch"], encoding="base64", reverse=True)
    assert (await call(client, "diff", sandbox=box))["patch"] == ""
    await call(client, "patch", sandbox=box, patch=diff["patch"], encoding="base64")
    await refused(client, "patch", "invalid_value", "patch", sandbox=box, patch="!", encoding="base64")
    assert (await call(client, "file_remove", sandbox=box, path="src", recursive=True))["entries"] == 2
    await call(client, "reset", sandbox=box)


async def files_and_diffs_are_resources(client, box):
    await call(client, "file_write", sandbox=box, path="with space.txt", content="hällo\n")
    await call(client, "file_write", sandbox=box, path="r.bin", content="/wA=", encoding="base64")
    templates = {template.uri_template for template in (await client.list_resource_templates()).resource_templates}
    assert templates == {"hearth://sandboxes/{id}/files/{+path}", "hearth://sandboxes/{id}/diff"}, templates
    resources = (await client.list_resources()).resources
    assert any(resource.name == f"{box}/diff" for resource in resources), resources
    file = (await client.read_resource(f"hearth://sandboxes/{box}/files/with%20space.txt")).contents[0]
    assert (file.text, file.mime_type) == ("hällo\n", "text/plain"), file
    blob = (await client.read_resource(f"hearth://sandboxes/{box}/files/r.bin")).contents[0]
    assert base64.b64decode(blob.blob) == b"\xff\0", blob
    diff = (await client.read_resource(f"hearth://sandboxes/{box}/diff")).contents[0]
    assert "+hällo" in diff.text and diff.mime_type == "text/x-diff", diff
    for uri, code in [
        (f"hearth://sandboxes/{box}/files/gone", "not_found"),
        (f"hearth://sandboxes/{box}/files/%2e%2e/etc/passwd", "outside_root"),
        ("hearth://sandboxes/nobody/diff", "unknown_sandbox"),
        ("hearth://elsewhere", "invalid_value"),
    ]:
        try:
            await client.read_resource(uri)
            raise AssertionError(f"{uri} was read")
        except MCPError as error:
            assert error.error.data["code"] == code, (uri, error.error)


async def what_is_left_out_is_counted_and_can_be_had(client, box):
    ran = await call(client, "exec", sandbox=box, command="seq 1 30000; printf done >&2", max_output_bytes=1000)
    whole = "".join(f"{number}\n" for number in range(1, 30001))
    stdout = ran["stdout"]
    gap = stdout["omitted"]
    assert stdout["bytes"] == len(whole) and len(stdout["text"]) + len(gap["tail"]) + gap["bytes"] == len(whole), ran
    assert whole.startswith(stdout["text"]) and whole.endswith(gap["tail"]) and "process_output" in gap["rest"]
    text, at = stdout["text"], gap["from"]
    while True:
        piece = await call(client, "process_output", sandbox=box, process=ran["process"], **{"from": at}, limit=60000)
        assert piece["from"] == at
        text, at = text + piece["text"], piece["next"]
        if piece["ended"]:
            break
    assert text == whole and ran["stderr"]["text"] == "done"
    large = await client.call_tool("exec", {"sandbox": box, "command": "head -c 200000 /dev/zero | tr '\\0' x", "max_output_bytes": 400000})
    assert large.structured_content["stdout"]["text"] == "x" * 200000
    assert len(large.content[0].text) < 10000 and json.loads(large.content[0].text)["exit_code"] == 0, "sent twice"


async def long_work_outlives_its_call(client, box):
    ran = await call(client, "exec", sandbox=box, command="echo one; sleep 2; echo two; exit 7", wait_ms=300)
    assert (ran["state"], ran["stdout"]["text"]) == ("running", "one\n") and "exit_code" not in ran, ran
    ran = await call(client, "process_wait", sandbox=box, process=ran["process"], stdout_from=ran["next"]["stdout"])
    assert (ran["state"], ran["exit_code"], ran["stdout"]["text"], ran["next"]["stdout"]) == ("exited", 7, "two\n", 8), ran

    started = await call(client, "process_start", sandbox=box, command="trap '' TERM; echo up; while :; do sleep 1000; done")
    piece = await call(client, "process_output", sandbox=box, process=started["process"], wait_ms=30000)
    assert (piece["text"], piece["ended"]) == ("up\n", False), piece
    waited = await call(client, "process_wait", sandbox=box, process=started["process"], wait_ms=0)
    assert waited["state"] == "running", waited
    ended = await call(client, "process_cancel", sandbox=box, process=started["process"], grace_ms=200)
    assert (ended["state"], ended["signal"], ended["exit_code"]) == ("exited", "SIGKILL", 137), ended
    again = await call(client, "process_cancel", sandbox=box, process=started["process"])
    assert again["exit_code"] == 137, again
    listed = {process["process"]: process for process in (await call(client, "process_list", sandbox=box))["processes"]}
    assert listed[started["process"]]["state"] == "exited", listed


async def progress_is_told_while_a_call_lasts(client, box):
    told = []

    async def tell(progress, total, message):
        told.append((progress, message))

    result = await client.call_tool("exec", {"sandbox": box, "command": "echo hi; sleep 3.5"}, progress_callback=tell)
    assert result.structured_content["exit_code"] == 0
    assert len(told) >= 2 and told == sorted(told), told
    assert any("3 bytes of output" in message for _, message in told), told


async def calls_run_side_by_side(client, box):
    begun = time.monotonic()
    codes = {}

    async def one(number):
        ran = await call(client, "exec", sandbox=box, command=f"sleep 2; exit {number}")
        codes[number] = ran["exit_code"]

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, number)
        with anyio.fail_after(1.9):
            await call(client, "file_list", sandbox=box)
    assert codes == {number: number for number in range(8)} and time.monotonic() - begun < 10


async def what_is_handed_over_gets_all_of_its_input_and_the_end_of_it(client, box):
    for stdin in ["little", "ä" * 900_000]:
        ran = await call(client, "exec", sandbox=box, command="echo up; until [ -e go ]; do sleep 0.1; done; wc -c; echo end", stdin=stdin, wait_ms=0)
        assert ran["state"] == "running", ran
        await call(client, "file_write", sandbox=box, path="go", content="")
        with anyio.fail_after(60):
            ran = await call(client, "process_wait", sandbox=box, process=ran["process"])
        assert (ran["exit_code"], ran["stdout"]["text"]) == (0, f"up\n{len(stdin.encode())}\nend\n"), ran
        await call(client, "file_remove", sandbox=box, path="go")


async def find(client, box, text):
    listed = (await call(client, "process_list", sandbox=box))["processes"]
    return next((process for process in listed if text in process["command"] and process["state"] == "running"), None)


async def begun(client, box, text):
    """Waits until a process runs that a call in flight has started."""
    with anyio.fail_after(60):
        while (process := await find(client, box, text)) is None:
            pass
    return process["process"]


async def a_cancelled_call_stops_its_work_in_the_guest(client, box):
    async with anyio.create_task_group() as group:
        group.start_soon(partial(call, client, "exec", sandbox=box, command="sleep 1001 & sleep 1002"))
        process = await begun(client, box, "sleep 1002")
        group.cancel_scope.cancel()
    with anyio.fail_after(30):
        ended = await call(client, "process_wait", sandbox=box, process=process, wait_ms=30000)
    assert (ended["state"], ended["signal"]) == ("exited", "SIGKILL"), ended
    left = await call(client, "exec", sandbox=box, command="cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 100[12]'")
    assert left["stdout"]["text"] == "0\n", left
    assert (await call(client, "exec", sandbox=box, command="echo on"))["stdout"]["text"] == "on\n"


async def a_cancelled_run_takes_its_sandbox_with_it(client, _):
    async def count():
        return len((await call(client, "sandbox_list", state="running"))["sandboxes"])

    before = await count()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(call, client, "run", command="sleep 1000"))
        with anyio.fail_after(60):
            while await count() == before:
                pass
        group.cancel_scope.cancel()
    with anyio.fail_after(30):
        while await count() > before:
            pass


async def a_client_that_goes_stops_what_it_waits_for_and_no_more(client, box):
    async with connected() as other:
        started = await call(other, "process_start", sandbox=box, command="sleep 1003")
        async with anyio.create_task_group() as group:
            group.start_soon(partial(call, other, "exec", sandbox=box, command="sleep 1004"))
            process = await begun(client, box, "sleep 1004")
            group.cancel_scope.cancel()
    with anyio.fail_after(60):
        ended = await call(client, "process_wait", sandbox=box, process=process, wait_ms=60000)
    assert ended["signal"] == "SIGKILL", ended
    assert (await call(client, "process_wait", sandbox=box, process=started["process"], wait_ms=0))["state"] == "running"
    await call(client, "process_cancel", sandbox=box, process=started["process"])


async def a_client_outlives_its_daemon(client, box):
    started = await call(client, "process_start", sandbox=box, command="echo before; read line; echo after")
    with open(f"{HOME}/daemon.lock") as lock:
        daemon = os.pidfd_open(int(lock.read()))
    signal.pidfd_send_signal(daemon, signal.SIGKILL)
    # A call that it dies under is lost, and says so.
    await anyio.wait_readable(daemon)
    os.close(daemon)
    piece = await call(client, "process_output", sandbox=box, process=started["process"], wait_ms=30000)
    assert piece["text"].startswith("before\n"), piece
    await call(client, "process_cancel", sandbox=box, process=started["process"])


async def the_full_profile_has_the_rest(_, box):
    async with connected("full") as client:
        await call(client, "checkpoint", sandbox=box, name="here")
        await call(client, "file_write", sandbox=box, path="index.html", content="served\n")
        assert (await call(client, "diff", sandbox=box, since="here", list_only=True))["created"] == 1

        service = await call(client, "service_start", sandbox=box, name="web", command=["python3", "-u", "-m", "http.server", "8000"], ready_port=8000)
        assert service["state"] == "running", service
        port = await call(client, "port_publish", sandbox=box, guest_port=8000, service="web")
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"http://{port['listen']}/index.html")).text == "served\n"
        assert (await call(client, "port_list", sandbox=box))["ports"] == [port]
        assert "index.html" in (await call(client, "service_log", sandbox=box, name="web"))["text"]
        assert [service["name"] for service in (await call(client, "service_list", sandbox=box))["services"]] == ["web"]
        await call(client, "port_close", sandbox=box, port=int(port["listen"].rsplit(":", 1)[1]))
        assert (await call(client, "service_stop", sandbox=box, name="web"))["state"] == "stopped"
        failed = await call(client, "service_start", sandbox=box, name="bad", command="exit 7")
        assert failed["state"] == "failed" and failed["exit"]["exit_code"] == 7, failed

        await call(client, "shell_open", sandbox=box, name="sh")
        sent = await call(client, "shell_send", sandbox=box, name="sh", text="echo $((20 + 22))", until="prompt")
        assert "42" in sent["screen"] and sent["idle"] and not sent["job"], sent
        sent = await call(client, "shell_send", sandbox=box, name="sh", text="sleep 1000", since=sent["next"])
        assert sent["job"], sent
        sent = await call(client, "shell_send", sandbox=box, name="sh", signal="INT", until="prompt", since=sent["next"])
        assert sent["idle"] and not sent["job"], sent
        await call(client, "shell_close", sandbox=box, name="sh")

        ran = await call(client, "kernel_run", sandbox=box, code="x = 20\nprint('set')")
        assert ran["stdout"]["text"] == "set\n" and ran["fresh"], ran
        assert (await call(client, "kernel_run", sandbox=box, code="x * 2 + 2"))["result"]["text/plain"] == "42"
        failed = await call(client, "kernel_run", sandbox=box, code="1 / 0")
        assert failed["code"] == 1 and "ZeroDivisionError" in failed["error"], failed
        async with anyio.create_task_group() as group:
            group.start_soon(partial(call, client, "kernel_run", sandbox=box, code="open('/workspace/begun', 'w').close()\nwhile True: pass"))
            with anyio.fail_after(60):
                while not any(entry["path"] == "begun" for entry in (await call(client, "file_list", sandbox=box))["entries"]):
                    pass
            group.cancel_scope.cancel()
        with anyio.fail_after(30):
            assert (await call(client, "kernel_run", sandbox=box, code="x"))["result"]["text/plain"] == "20"
        # Code that waits for its turn can be taken back, and what has its turn hears nothing of it.
        code = "import os, time\nwhile not os.path.exists('/workspace/go'): time.sleep(0.05)\nprint('whole')"
        async with anyio.create_task_group() as group:
            ran = {}

            async def first():
                ran.update(await call(client, "kernel_run", sandbox=box, code="open('/workspace/busy', 'w').close()\n" + code))

            group.start_soon(first)
            with anyio.fail_after(60):
                while not any(entry["path"] == "busy" for entry in (await call(client, "file_list", sandbox=box))["entries"]):
                    pass
            # Nothing shows who waits for a kernel.
            with anyio.move_on_after(1):
                await call(client, "kernel_run", sandbox=box, code="x = 'never'")
            await call(client, "file_write", sandbox=box, path="go", content="")
        assert (ran["code"], ran["stdout"]["text"]) == (0, "whole\n"), ran
        assert (await call(client, "kernel_run", sandbox=box, code="x"))["result"]["text/plain"] == "20"
        await call(client, "kernel_restart", sandbox=box, kernel="python")
        assert (await call(client, "kernel_run", sandbox=box, code="x"))["code"] == 1

        fork = (await call(client, "sandbox_fork", sandbox=box, name=f"{box}-copy"))["sandboxes"][0]
        assert (await call(client, "file_read", sandbox=fork["id"], path="index.html"))["text"] == "served\n"
        assert (await call(client, "sandbox_pause", sandbox=fork["id"]))["state"] == "paused"
        assert (await call(client, "sandbox_resume", sandbox=fork["id"]))["state"] == "running"
        disk = (await call(client, "sandbox_create", disk_mib=64))["id"]
        assert (await call(client, "sandbox_stop", sandbox=disk))["sandbox"]["state"] == "stopped"
        assert (await call(client, "sandbox_start", sandbox=disk))["state"] == "running"
        await call(client, "sandbox_remove", sandbox=disk)
        saved = await call(client, "snapshot_create", sandbox=fork["id"], name=f"{box}-saved")
        assert saved["bytes"] > 0
        await call(client, "sandbox_remove", sandbox=fork["id"])
        made = await call(client, "sandbox_create", name=f"{box}-again", snapshot=f"{box}-saved")
        assert (await call(client, "file_read", sandbox=made["id"], path="index.html"))["text"] == "served\n"
        await call(client, "sandbox_remove", sandbox=made["id"])
        assert saved in (await call(client, "snapshot_list"))["snapshots"]
        await refused(client, "snapshot_remove", "unknown_snapshot", name=f"{box}-other")
        await call(client, "snapshot_remove", name=f"{box}-saved")
        assert saved not in (await call(client, "snapshot_list"))["snapshots"]

        changed = await call(client, "sandbox_update", sandbox=box, ttl_seconds=3600, labels={"by": "mcp", "kept": ""})
        assert changed["expires_unix_ms"] > changed["created_unix_ms"] and changed["labels"] == {"by": "mcp", "kept": ""}, changed
        assert "expires_unix_ms" not in await call(client, "sandbox_update", sandbox=box, keep=True)
        await refused(client, "sandbox_update", "invalid_value", sandbox=box, keep=True, ttl_seconds=1)


STDIO_ONLY = {a_client_that_goes_stops_what_it_waits_for_and_no_more, a_client_outlives_its_daemon}
CASES = [value for value in list(globals().values()) if callable(value) and getattr(value, "__module__", None) == "__main__"
         and value not in (connected, call, refused, find, begun) and not (TRANSPORT == "http" and value in STDIO_ONLY)]


async def main():
    wanted = sys.argv[4:]
    async with connected() as client:
        box = f"mcp-{TRANSPORT}-{MODE}"
        made = await call(client, "sandbox_create", name=box, labels={"by": "mcp"})
        assert made["state"] == "running" and made["labels"] == {"by": "mcp"}, made
        for case in CASES:
            if not wanted or case.__name__ in wanted:
                begun_at = time.monotonic()
                await case(client, box)
                print(f"{case.__name__}: {time.monotonic() - begun_at:.1f} s ({client.protocol_version})", flush=True)
        await call(client, "sandbox_remove", sandbox=box)
        await refused(client, "exec", "unknown_sandbox", sandbox=box, command="true")


anyio.run(main)
