"""Runs a program in a sandbox of its own, and looks at what it left."""

import hearth

PROGRAM = """
import pathlib, platform
pathlib.Path("report.txt").write_text(f"made by Linux {platform.release()}")
print("done")
"""


def main() -> None:
    with hearth.Client() as client, client.create(lifespan="connection") as box:
        box.checkpoint()
        box.files.write("/tmp/program.py", PROGRAM, root="system")
        result = box.exec(["python3", "/tmp/program.py"], timeout_ms=60_000, check=True)
        print(result.stdout.text, end="")
        for change in box.changes().changes:
            print(change.change, change.path)
        print(box.files.read_text("report.txt"))


if __name__ == "__main__":
    main()
