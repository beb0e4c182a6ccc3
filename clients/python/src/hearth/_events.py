"""Events, as lines of server-sent events. The daemon writes each one's data on one line."""

from __future__ import annotations

from ._json import parse
from .models import Event, Missed


class Lines:
    """What the lines so far have said."""

    def __init__(self) -> None:
        self._is_missed = False

    def take(self, line: bytes) -> Event | Missed | None:
        """Takes a line, and returns what is whole with it."""
        name, _, value = line.strip().partition(b":")
        value = value.strip()
        if name == b"event":
            self._is_missed = value == b"missed"
        elif name == b"data":
            is_missed, self._is_missed = self._is_missed, False
            return Missed(parse(int, value)) if is_missed else parse(Event, value)
        return None
