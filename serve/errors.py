"""Errors as clients of OpenAI's API expect them: a status, and `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Iterable
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


def from_error(error: BaseException, params: Iterable[str] = (), prompt: str = "messages") -> ApiError:
    """What a client is told of an error; no path of this machine, and nothing of what it did not expect itself.

    Args:
        params: what the request gave: a message that begins with one of them names it.
        prompt: the one that holds the prompt.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLong):
        message = str(error).partition(";")[0] + "; shorten the prompt"
        return ApiError(400, message, param=prompt, code="context_length_exceeded")
    if isinstance(error, UsageError | TokenizerError):
        message = str(error)
        if "--" in message or "(think=)" in message:  # the cure is for the command line
            message = message.partition(";")[0]
        first = message.split(" ", 1)[0].rstrip(":")
        param = next((name for name in params if first == name), None)
        if param is None and first in ("message", "tool", "the"):
            param = "tools" if first == "tool" else prompt
        return ApiError(400, message, param=param, code="invalid_value")
    if isinstance(error, SessionBusy | SessionClosed):
        return overloaded("the model was closed meanwhile; try again", 1)
    if isinstance(error, BundleError):
        return ApiError(503, "the model's files cannot be used; the server's log says why", code="model_unusable")
    if isinstance(error, MemoryError):
        return overloaded("there is not enough memory for this request; try again, or ask for fewer tokens", 5)
    if isinstance(error, EngineError):
        return ApiError(500, "the engine failed; the server's log says why", code="engine_error")
    kind = "internal_error" if not isinstance(error, DgemmaError) else "server_error"
    return ApiError(500, "the server failed; its log says why", code=kind)
