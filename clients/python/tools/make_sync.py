"""Makes `src/hearth/_sync` of `src/hearth/_async`: the same text without `async` and `await`, and with the plain names.

usage: python tools/make_sync.py [--check]

With `--check` it changes nothing, and fails where what is there is not what it would make.
"""

from __future__ import annotations

import filecmp
import re
import shutil
import sys
import tempfile
from pathlib import Path

import unasync  # type: ignore[import-untyped]

PACKAGE = Path(__file__).parent.parent / "src/hearth"
#: Written by hand: what differs is not only `async` and `await`.
BY_HAND = ("driver.py", "__init__.py")
NAMES = {"_async": "_sync", "aclose": "close", "aiter_bytes": "iter_bytes"}


def make(directory: Path) -> list[Path]:
    """Makes the package in a directory, and returns its files."""
    sources = [path for path in (PACKAGE / "_async").glob("*.py") if path.name not in BY_HAND]
    classes = {name for path in sources for name in re.findall(r"\bAsync\w+", path.read_text())}
    # What the language has an `AsyncIterator` of its own for is a plain `Iterator`.
    names = {name: name.removeprefix("Async") for name in classes}
    rule = unasync.Rule(str(PACKAGE / "_async"), str(directory), additional_replacements={**names, **NAMES})
    unasync.unasync_files([str(path) for path in sources], [rule])
    made = sorted(directory.glob("*.py"))
    for path in made:
        # Names in documentation are no names to the tool.
        path.write_text(re.sub(r"`Async(\w+)", r"`\1", path.read_text()))
    return made


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "_sync"
        directory.mkdir()
        made = make(directory)
        if "--check" not in sys.argv:
            for path in made:
                shutil.copy(path, PACKAGE / "_sync" / path.name)
            return 0
        names = {path.name for path in made} | set(BY_HAND)
        there = {path.name for path in (PACKAGE / "_sync").glob("*.py")}
        other = [path.name for path in made if not _is_same(path, PACKAGE / "_sync" / path.name)]
        wrong = sorted({*other, *(names ^ there)})
        if wrong:
            print(f"not what _async makes: {', '.join(wrong)}; run python tools/make_sync.py", file=sys.stderr)
        return 1 if wrong else 0


def _is_same(one: Path, other: Path) -> bool:
    return other.exists() and filecmp.cmp(one, other, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
