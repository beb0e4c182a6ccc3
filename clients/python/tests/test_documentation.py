"""What the documentation shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hearth

from .conftest import REPOSITORY

CLIENT = REPOSITORY / "clients/python"
BLOCKS = re.findall(r"^```python\n(.*?)^```", (CLIENT / "README.md").read_text(), re.M | re.S)


def run(arguments: list[str | Path]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_of_the_readme_runs(client: hearth.Client, number: int) -> None:
    said = run(["-c", BLOCKS[number]])
    expected = ["0 42", "hello, world", "['0', '1', '4', '9', '16']", "invalid_value memory_mib True"]
    assert expected[number] in said
    assert not client.list(labels={"for": "tour"})


@pytest.mark.parametrize(("name", "expected"), [("quickstart", "created report.txt"), ("follow", "0 51 end")])
def test_the_examples_run(client: hearth.Client, name: str, expected: str) -> None:
    assert expected in run([CLIENT / f"examples/{name}.py"])


def test_every_example_is_run() -> None:
    assert {path.stem for path in (CLIENT / "examples").glob("*.py")} == {"quickstart", "follow"}
