"""Errors as clients of OpenAI's API expect them: a status, and `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgemma.core.errors import (
    BundleError,
    DgemmaError,
    EngineError,
    PromptTooLong,
    SessionBusy,
    SessionClosed,
    TokenizerError,
    UsageError,
)

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told.

    Args:
        status: of HTTP.
        message: one line, with the cure.
        param: the parameter that is wrong.
        code: for programs.
        retry_after: seconds until it may go better.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def overloaded(message: str, retry_after: int) -> ApiError:
    """503: not now."""
    return ApiError(503, message, code="overloaded", retry_after=retry_after)


def from_error(error: BaseException, names: Mapping[str, str] | None = None) -> ApiError:
    """What a client is told of an error; no path of this machine, and nothing of what it did not expect itself.

    Args:
        names: parameters as Python calls them → fields of the request; those that are not there have the same name.
    """
    names = names or {}
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLong):
        short = error.spelled(names).partition(";")[0]
        field = names.get(error.param or "prompt", error.param or "messages")
        cure = "shorten it" if error.param == "negative" else "shorten the prompt"
        return ApiError(400, f"{short}; {cure}", param=field, code="context_length_exceeded")
    if isinstance(error, UsageError | TokenizerError):
        param = None if error.param is None else names.get(error.param, error.param)
        return ApiError(400, error.spelled(names), param=param, code="invalid_value")
    if isinstance(error, SessionBusy | SessionClosed):
        return overloaded("the model has been closed; try again", 1)
    if isinstance(error, BundleError):
        return ApiError(503, "the model's files cannot be used; the server's log says why", code="model_unusable")
    if isinstance(error, MemoryError):
        return overloaded("there is not enough memory for this request; try again, or ask for fewer tokens", 5)
    if isinstance(error, EngineError):
        return ApiError(500, "the engine failed; the server's log says why", code="engine_error")
    kind = "internal_error" if not isinstance(error, DgemmaError) else "server_error"
    return ApiError(500, "the server failed; its log says why", code=kind)
