"""Every error that a user can cause, one class per kind. A message is one line: what is wrong, where, and the cure."""

from __future__ import annotations


class DgemmaError(Exception):
    """Base of all errors of this package; the command line prints it as one line and exits with status 2."""


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


class DgemmaWarning(UserWarning):
    """Something works, but not as well as it could: one line, with the cure. The command line prints it on stderr."""
