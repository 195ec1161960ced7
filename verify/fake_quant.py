"""The float model with a bundle's own integers, read back out of its ONNX graph and run by eager PyTorch.

An artifact has to stay far closer to this model than to the float one.
"""

from __future__ import annotations

from dgemma.export.onnx.read import read_integers
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.simulate import simulate
from dgemma.runtime.bundle import Bundle
from dgemma.verify.backend import Backend
from dgemma.verify.torch_backend import TorchBackend


def fake_quantized(bundle: Bundle, float_model: Backend, name: str) -> TorchBackend:
    """The backend; `float_model` is the torch one, whose other weights it shares."""
    assert isinstance(float_model, TorchBackend)
    manifest = bundle.manifest
    return TorchBackend(simulate(float_model.model, integers(bundle)), manifest.sampler, manifest.canvas_length, name=name)


def integers(bundle: Bundle) -> dict[str, QuantizedMatrix]:
    """Parameter name → matrix, of every quantized one."""
    return read_integers(bundle.file(bundle.graph("onnx", "denoise").file))
