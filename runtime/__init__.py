"""Runs a bundle with numpy and one engine. Knows nothing of checkpoints, and never imports torch, onnx or transformers."""

from dgemma.runtime.bundle import Bundle
from dgemma.runtime.result import Result, StepEvent, Timings
from dgemma.runtime.session import Session

__all__ = ["Bundle", "Result", "Session", "StepEvent", "Timings"]
