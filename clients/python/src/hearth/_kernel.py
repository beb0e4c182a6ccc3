"""The lines that code in a kernel answers with."""

from __future__ import annotations

import json
from typing import Union

from ._json import read
from .errors import BadAnswerError, api_error
from .models import Captured, KernelError, KernelOutcome, KernelRan, KernelValue, Output


def line_of(text: bytes) -> Output | KernelValue | KernelError | KernelRan | None:
    """Reads a line; `None` is one of a kind that is not known.

    Raises `BadAnswerError`, and what a `failed` line says.
    """
    try:
        line = json.loads(text)
    except ValueError as error:
        raise BadAnswerError(f"the daemon's answer cannot be read: {error}") from error
    kind = line.get("type") if isinstance(line, dict) else None
    if kind == "output":
        return Output(
            "stderr" if line.get("stream") == "stderr" else "stdout", read(Captured, {"dropped_bytes": 0, **line}).data
        )
    if kind in ("result", "display"):
        return read(KernelValue, line)
    if kind == "error":
        return read(KernelError, line)
    if kind == "ran":
        return read(KernelRan, line)
    if kind == "failed":
        raise api_error(line.get("error"))
    return None


class Collected:
    """What some code has done so far."""

    def __init__(self) -> None:
        self._output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._result: KernelValue | None = None
        self._displays: list[KernelValue] = []
        self._error: KernelError | None = None

    def add(self, line: Union[Output, KernelValue, KernelError]) -> None:
        if isinstance(line, Output):
            self._output[line.stream].append(line.data)
        elif isinstance(line, KernelError):
            self._error = line
        elif line.type == "result":
            self._result = line
        else:
            self._displays.append(line)

    def outcome(self, ran: KernelRan) -> KernelOutcome:
        return KernelOutcome(
            stdout=b"".join(self._output["stdout"]),
            stderr=b"".join(self._output["stderr"]),
            result=self._result,
            displays=self._displays,
            error=self._error,
            ran=ran,
        )
