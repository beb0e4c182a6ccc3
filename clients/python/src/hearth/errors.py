"""What can go wrong, as exceptions: every one of this package's is a `HearthError`.

Whether what was asked may have been done decides whether it is safe to ask again; `HearthError.retry_is_safe` says so. Nothing is ever
asked twice behind a caller's back.
"""

from __future__ import annotations

import json
from typing import Any, Literal

Outcome = Literal["never_started", "may_have_run", "failed"]


class HearthError(Exception):
    """Anything that goes wrong in this package."""

    #: Whether asking again cannot do anything twice.
    retry_is_safe: bool = False


class InvalidHomeError(HearthError):
    """The environment does not say where Hearth's home is."""

    retry_is_safe = True


class ConnectFailedError(HearthError):
    """No connection: nothing was asked."""

    retry_is_safe = True


class NotRunningError(ConnectFailedError):
    """Nobody listens at the daemon's socket."""


class WrongPeerError(ConnectFailedError):
    """The socket is another user's, or the certificate another one. Nothing was sent."""


class StartFailedError(ConnectFailedError):
    """The daemon could not be started."""


class ConnectionLostError(HearthError):
    """The connection broke before the whole answer was there: what was asked may have been done."""


class AnswerTimeoutError(HearthError):
    """The answer did not come within the client's own bound: what was asked may have been done."""


class BadAnswerError(HearthError):
    """The daemon's answer cannot be read: what was asked may have been done."""


class ProgramFailedError(HearthError):
    """A program that was to succeed (`check=True`) has not."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        #: How it ended and what it wrote: an `ExecResult`, an `InstallResult` or a `KernelOutcome`.
        self.result = result


class ApiError(HearthError):
    """The daemon, or the guest's agent, says no. The subclass tells what kind of no it is, `code` which one."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        field: str | None = None,
        outcome: Outcome | None = None,
        detail: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        #: Why, for programs: stable, the same in the API, the CLI and MCP.
        self.code = code
        #: Why, for people.
        self.message = message
        #: What to do about it, where there is something.
        self.hint = hint
        #: Which field of the request is to blame, where one is.
        self.field = field
        #: Whether it may have had an effect, where that is not plain.
        self.outcome = outcome
        #: What somebody else said of it, in many lines, such as the console of a guest. May come from the guest: escape it.
        self.detail = detail
        #: The HTTP status; none over a WebSocket.
        self.status = status

    @property
    def retry_is_safe(self) -> bool:  # type: ignore[override]
        """Whether asking again cannot do anything twice."""
        return self.outcome == "never_started" or (self.outcome is None and isinstance(self, _REFUSED))

    def __str__(self) -> str:
        about = f" (field {self.field})" if self.field else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.code}: {self.message}{about}{hint}"


class InvalidRequestError(ApiError):
    """The request is not what it must be; `field` names what is to blame, where something is."""


class UnauthorizedError(ApiError):
    """The API key is missing or wrong."""


class ForbiddenError(ApiError):
    """Whoever asked may not, or a path leaves its root."""


class NotFoundError(ApiError):
    """There is no such sandbox, process, file, name or endpoint."""


class ConflictError(ApiError):
    """A name is taken, or the state of something does not allow it."""


class LimitReachedError(ApiError):
    """A limit is reached: of the daemon, or of the guest's agent. Later it may go."""


class UnavailableError(ApiError):
    """The host, the machine or the guest cannot do it now."""


class DaemonFaultError(ApiError):
    """A bug in the daemon or the guest's agent: please report it."""


_REFUSED = (InvalidRequestError, UnauthorizedError, ForbiddenError, NotFoundError, ConflictError, LimitReachedError)

_CODES: dict[type[ApiError], str] = {
    InvalidRequestError: """invalid_request invalid_value method_not_allowed body_too_large unsupported_media_type
        malformed_request unknown_request invalid_field header_too_long working_directory command_not_executable not_a_directory
        is_a_directory not_a_regular_file name_too_long too_large bad_archive bad_patch""",
    UnauthorizedError: "unauthorized",
    ForbiddenError: "forbidden outside_root permission_denied",
    NotFoundError: """unknown_endpoint unknown_sandbox unknown_port unknown_snapshot unknown_template unknown_image unknown_user
        command_not_found unknown_process not_found unknown_name""",
    ConflictError: """ambiguous_sandbox name_taken wrong_state sandbox_removed not_running not_a_terminal already_exists not_empty
        patch_conflict""",
    LimitReachedError: "limit_reached busy",
    UnavailableError: """ending missing resources host machine no_answer spawn_failed no_space unavailable connection_failed timed_out
        cancelled io""",
    DaemonFaultError: "bug unsupported_version duplicate_request internal unknown",
}
#: The exception of each code.
BY_CODE: dict[str, type[ApiError]] = {code: kind for kind, codes in _CODES.items() for code in codes.split()}

_BY_STATUS: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: ConflictError,
    429: LimitReachedError,
    500: DaemonFaultError,
}


def _kind(code: str, status: int | None) -> type[ApiError]:
    if code in BY_CODE:
        return BY_CODE[code]
    # A code of a newer daemon: the status says what kind of no it is.
    if status is None:
        return ApiError
    return _BY_STATUS.get(status, InvalidRequestError if status < 500 else UnavailableError)


def api_error(body: Any, status: int | None = None) -> HearthError:
    """Makes the exception of an error's body, as JSON has it."""
    if not isinstance(body, dict) or not isinstance(body.get("code"), str) or not isinstance(body.get("message"), str):
        return BadAnswerError(f"the daemon's answer cannot be read: status {status} without a reason")

    def text(key: str) -> str | None:
        value = body.get(key)
        return value if isinstance(value, str) else None

    outcome = text("outcome")
    return _kind(body["code"], status)(
        body["code"],
        body["message"],
        hint=text("hint"),
        field=text("field"),
        outcome=outcome if outcome in ("never_started", "may_have_run", "failed") else None,  # type: ignore[arg-type]
        detail=text("detail"),
        status=status,
    )


def refused(body: bytes, status: int) -> HearthError:
    """Makes the exception of an answer that is no success."""
    try:
        return api_error(json.loads(body), status)
    except ValueError:
        return api_error(None, status)
