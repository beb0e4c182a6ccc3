"""Where Hearth lives on this machine, by the rules of the `hearth` command itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .errors import InvalidHomeError

SOCKET = "hearth.sock"


def home(environment: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """Hearth's home: `HEARTH_HOME`; without it `/var/lib/hearth` for root, and `hearth` in the user's data directory for anyone else.

    Raises `InvalidHomeError`.
    """
    environment = os.environ if environment is None else environment
    uid = os.geteuid() if uid is None else uid
    given = environment.get("HEARTH_HOME", "")
    if given:
        if not os.path.isabs(given):
            raise InvalidHomeError(f"HEARTH_HOME is {given!r}, which is not an absolute path")
        return Path(given)
    if uid == 0:
        return Path("/var/lib/hearth")
    data, own = environment.get("XDG_DATA_HOME", ""), environment.get("HOME", "")
    if os.path.isabs(data):
        return Path(data) / "hearth"
    if os.path.isabs(own):
        return Path(own) / ".local/share/hearth"
    raise InvalidHomeError("neither HOME nor HEARTH_HOME is set")
