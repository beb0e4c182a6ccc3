"""A daemon with real machines for all tests: `crates/hearth/tests/cli/python.rs` names its home (`HEARTH_HOME`) and puts `hearth` on
the path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import hearth
from hearth._sync import transport

REPOSITORY = Path(__file__).resolve().parents[3]


def without_names(path: str) -> str:
    """A path with `{}` for what is named in it."""
    path = re.sub(r"^/?v1/(sandboxes|snapshots|templates|images)/[^/]+", r"v1/\1/{}", path.lstrip("/"))
    return re.sub(r"/(processes|services|shells|kernels|ports|secrets|checkpoints)/[^/]+", r"/\1/{}", path)


#: The routes that the daemon was asked and did not refuse.
asked: set[tuple[str, str]] = set()


@pytest.fixture(scope="session", autouse=True)
def record() -> Iterator[None]:
    """Notes what the daemon is asked."""
    sent, upgraded = transport.Transport.send, transport.Transport.websocket

    def send(self: Any, method: transport.Method, path: str, **options: Any) -> Any:
        answer = sent(self, method, path, **options)
        asked.add((method, without_names(path)))
        return answer

    def websocket(self: Any, path: str, options: Mapping[str, Any]) -> Any:
        socket = upgraded(self, path, options)
        asked.add(("GET", without_names(path)))
        return socket

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport.Transport, "send", send)
        patch.setattr(transport.Transport, "websocket", websocket)
        yield


@pytest.fixture(scope="session")
def client() -> Iterator[hearth.Client]:
    if not os.environ.get("HEARTH_HOME"):
        pytest.skip("HEARTH_HOME names no home with images: cargo nextest run -p hearth --test cli python prepares one")
    with hearth.Client() as client:
        yield client


@pytest.fixture(scope="session")
def box(client: hearth.Client) -> Iterator[hearth.Sandbox]:
    """One for all that can share it."""
    secrets = [hearth.Secret("TOKEN", "s3cret-value")]
    with client.create(lifespan="connection", name="shared", secrets=secrets, env={"COLOUR": "blue"}) as box:
        yield box


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at all that was asked comes last."""
    items.sort(key=lambda item: "every_route" in item.name)
