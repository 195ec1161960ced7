"""dgemma: DiffusionGemma checkpoints, lowered ahead of time and run on ONNX Runtime or ExecuTorch.

Attributes are loaded on first use, so that `import dgemma` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it: typing itself takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from dgemma.core.compute_policy import ComputePolicy as ComputePolicy
    from dgemma.core.errors import BundleError as BundleError
    from dgemma.core.errors import CheckpointError as CheckpointError
    from dgemma.core.errors import DgemmaError as DgemmaError
    from dgemma.core.errors import EngineError as EngineError
    from dgemma.core.errors import ExportError as ExportError
    from dgemma.core.errors import PromptTooLong as PromptTooLong
    from dgemma.core.errors import SessionBusy as SessionBusy
    from dgemma.core.errors import SessionClosed as SessionClosed
    from dgemma.core.errors import TokenizerError as TokenizerError
    from dgemma.core.errors import UsageError as UsageError
    from dgemma.core.generate_options import GenerateOptions as GenerateOptions
    from dgemma.core.sampler_options import SamplerOptions as SamplerOptions
    from dgemma.core.structure import Structure as Structure
    from dgemma.runtime.async_session import AsyncSession as AsyncSession
    from dgemma.runtime.result import Result as Result
    from dgemma.runtime.result import StepEvent as StepEvent
    from dgemma.runtime.result import TextEvent as TextEvent
    from dgemma.runtime.session import Session as Session

# onnxruntime's wheels report usage over the network and write a device's id below the home folder, from their import on, unless
# this is set before. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Where git wrote the links to the rooms as text files, as it does on Windows, rooms are found where they lie: in the checkout.
if os.path.isfile(os.path.join(__path__[0], "model")):
    __path__.append(os.path.dirname(os.path.dirname(__path__[0])))

__version__ = "0.1.0"

_ERRORS = (
    "BundleError", "CheckpointError", "DgemmaError", "EngineError", "ExportError", "PromptTooLong", "SessionBusy",
    "SessionClosed", "TokenizerError", "UsageError",
)  # fmt: skip
_HOMES = {
    "Session": "dgemma.runtime.session",
    "AsyncSession": "dgemma.runtime.async_session",
    **dict.fromkeys(("Result", "StepEvent", "TextEvent"), "dgemma.runtime.result"),
    "GenerateOptions": "dgemma.core.generate_options",
    "ComputePolicy": "dgemma.core.compute_policy",
    "SamplerOptions": "dgemma.core.sampler_options",
    "Structure": "dgemma.core.structure",
    **dict.fromkeys(_ERRORS, "dgemma.core.errors"),
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dgemma' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
