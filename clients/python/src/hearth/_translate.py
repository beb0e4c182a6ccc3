"""The libraries' exceptions as this package's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import websockets.exceptions

from .errors import AnswerTimeoutError, ConnectFailedError, ConnectionLostError, refused


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises what goes wrong within as `HearthError`."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ConnectFailedError(f"cannot connect to the daemon: {error}") from error
    except httpx.TimeoutException as error:
        raise AnswerTimeoutError("no answer within the client's own bound") from error
    except httpx.TransportError as error:
        raise ConnectionLostError(f"the connection to the daemon broke: {error}") from error


@contextlib.contextmanager
def translated_websocket() -> Iterator[None]:
    """The same, of a WebSocket."""
    try:
        yield
    except websockets.exceptions.InvalidStatus as error:
        raise refused(bytes(error.response.body or b""), error.response.status_code) from error
    except (websockets.exceptions.WebSocketException, EOFError) as error:
        raise ConnectionLostError(f"the connection to the daemon broke: {error}") from error
    except TimeoutError as error:
        raise ConnectFailedError("the daemon did not answer in time") from error
    except OSError as error:
        raise ConnectFailedError(f"cannot connect to the daemon: {error}") from error
