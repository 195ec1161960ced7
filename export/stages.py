"""The stages of an export: their names, which lowerings announce and the estimate knows, and how long each should take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LOAD, QUANTIZE, GOLDEN = "load", "quantize", "golden"
ONNX = {part: f"onnx: {part}" for part in ("embed", "condition", "stack", "head", "graphs")}
EXECUTORCH = {
    part: f"executorch: {part}"
    for part in ("layers", "encode", "denoise", "denoise_guided", "denoise_active", "decode", "check", "generate", "write")
}

QNN = {part: f"qnn: {part}" for part in ("ranges", "graphs", "compile")}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the plan; seconds are of an idle core. Without an engine it is for all of them."""

    name: str
    seconds: float
    engine: str | None = None


@dataclass(frozen=True)
class Reached:
    """The stage that an export is in: its beginning, or where it counts its parts, the share of it that is done."""

    stage: str
    detail: str = ""
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.stage}: {self.detail}" if self.detail else self.stage


Progress = Callable[[Reached], None]
