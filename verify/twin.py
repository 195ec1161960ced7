"""The float model with a bundle's own integers, read back out of its ONNX graph and run by eager PyTorch.

An artifact is held against this twin by far tighter limits than against the float model.
"""

from __future__ import annotations

from dgemma.export.onnx.read import read_integers
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.simulate import simulate
from dgemma.runtime.bundle import Bundle
from dgemma.verify.rung import Rung
from dgemma.verify.torch_rung import TorchRung


def twin(bundle: Bundle, float_model: Rung, name: str) -> TorchRung:
    """The rung; `float_model` is the torch one, whose other weights it shares."""
    assert isinstance(float_model, TorchRung)
    manifest = bundle.manifest
    return TorchRung(simulate(float_model.model, integers(bundle)), manifest.sampler, manifest.canvas_length, name=name)


def integers(bundle: Bundle) -> dict[str, QuantizedMatrix]:
    """Parameter name → matrix, of every quantized one."""
    return read_integers(bundle.file(bundle.graph("onnx", "denoise").file))
