"""Every error that a user can cause, one class per kind. A message is one line: what is wrong, where, and the cure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Param(str):
    """The name of a parameter, in a message: a keyword in Python, an option on the command line, a field of a request."""

    __slots__ = ()


class DgemmaError(Exception):
    """Base of all errors of this package; the command line prints it as one line and exits with status 2.

    Args:
        parts: of the message, joined; names of parameters, as Python spells them, are `Param`s.
        param: the parameter that is to blame; None: the first that the message names, if any.
    """

    def __init__(self, *parts: str, param: str | None = None) -> None:
        super().__init__("".join(parts))
        self.parts = parts
        self.params = tuple(str(part) for part in parts if isinstance(part, Param))
        self.param = param or next(iter(self.params), None)

    def spelled(self, names: Mapping[str, str]) -> str:
        """The message with parameters under other names; those that are not among `names` stay as they are."""
        return "".join(names.get(part, part) if isinstance(part, Param) else part for part in self.parts)


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """Errors that name no parameter are that one's."""
    try:
        yield
    except DgemmaError as error:
        error.param = error.param or param
        raise


def listed(names: Sequence[str], last: str = " and ") -> tuple[str, ...]:
    """Parts of a message that list parameters: a, b and c."""
    signs = [""] + [", "] * (len(names) - 2) + [last] * (len(names) > 1)
    return tuple(part for sign, name in zip(signs, names, strict=True) for part in (sign, Param(name)))


class UsageError(DgemmaError, ValueError):
    """An option or argument has a value that cannot be used."""


class CheckpointError(DgemmaError):
    """A checkpoint folder cannot be read: a file, a tensor or a config value is missing, surplus or wrong."""


class ExportError(DgemmaError):
    """A checkpoint cannot be lowered, or the bundle cannot be written."""


class TrainingError(DgemmaError):
    """Training cannot go on: a loss or a gradient is not a number."""


class BundleError(DgemmaError):
    """A bundle cannot be trusted: version, digest, size, hash, path or manifest key."""


class EngineError(DgemmaError):
    """An engine is unknown, not installed, not in the bundle, or it refused a graph."""


class TokenizerError(DgemmaError):
    """A tokenizer file cannot be read, or the text or ids cannot be converted."""


class PromptTooLong(DgemmaError):
    """Prompt, committed tokens and one canvas do not fit into the context."""


class SessionBusy(DgemmaError):
    """A session was asked for a second generation while one runs."""


class SessionClosed(DgemmaError):
    """A session was used after close."""


class Cancelled(DgemmaError):
    """Whoever asked for the work has cancelled it before there was an answer."""


class DgemmaWarning(UserWarning):
    """Something works, but not as well as it could: one line, with the cure. The command line prints it on stderr."""
