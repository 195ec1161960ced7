"""Which backends of the ladder there are for a bundle, from the top; and why others are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path

from dgemma.core.accelerators import DELEGATES, QNN
from dgemma.core.engines import PACKAGES
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
from dgemma.core.manifest import read_manifest
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import installed_version, qnn_sessions
from dgemma.verify import source_checkpoint, tolerance
from dgemma.verify.backend import Backend
from dgemma.verify.engine_backend import EngineBackend
from dgemma.verify.tolerance import Tolerance

Found = tuple[list[Backend], list[Tolerance], dict[str, str]]
FLOAT_BITS = 32
BFLOAT16 = "reference bfloat16"


def backends_of(bundle: Bundle, checkpoint: str | None, engines: Sequence[str], threads: int) -> Found:
    """The backends, the tolerance of each against the one above it, and backend → why it is not there.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another shape.
        EngineError: an engine that is there cannot run the bundle.
    """
    bits = {int(b) for b in bundle.manifest.quantization.get("bits", {}).values()}
    least = min(bits, default=FLOAT_BITS)
    backends: list[Backend] = []
    tolerances: list[Tolerance] = []
    missing: dict[str, str] = {}

    def add(backend: Backend, limit: Tolerance) -> None:
        backends.append(backend)
        tolerances.append(limit)

    if checkpoint is None:
        for name in ("reference bfloat16", "reference float32", "torch"):
            missing[name] = "needs --checkpoint"
    else:
        above, missing = float_backends(bundle, checkpoint, threads)
        for backend, limit in above:
            add(backend, limit)
    same = tolerance.SAME_FLOAT
    if least < FLOAT_BITS:
        mixture = bundle.manifest.model.is_moe
        same = tolerance.same_integers(mixture=mixture)
        if "torch" not in missing:
            recipe = str(bundle.manifest.quantization.get("recipe", "integers"))
            if "onnx" in bundle.manifest.graphs:
                add(fake_quantized(bundle, backends[-1], f"torch {recipe}"), tolerance.of_bits(least, mixture=mixture))
            else:
                missing[f"torch {recipe}"] = "integers can only be read back from ONNX graphs, and the bundle has none"
                same = tolerance.of_bits(least, mixture=mixture)
    for engine in engines:
        if installed_version(PACKAGES[engine]) is None:
            missing[engine] = f"not installed; {pip_install(engine)}"
        else:
            add(EngineBackend(bundle, engine, threads), same)
    if "onnx" in engines and "onnx" not in missing and any(name.startswith(f"{QNN}:") for name in bundle.manifest.targets):
        _add_static(bundle, threads, add, missing)
    for name in (name for name in bundle.manifest.targets if name in DELEGATES):
        missing[name] = "nothing here runs it; its files were read back and compared with the model when they were exported"
    return backends, tolerances, missing


def _add_static(bundle: Bundle, threads: int, add: Callable[[Backend, Tolerance], None], missing: dict[str, str]) -> None:
    """An NPU's graphs, on the processor and in the emulator."""
    from dgemma.verify.static_graphs import EMULATED, StaticBackend

    rounded = bundle.manifest.quantization.get("recipe") != "fp32"
    add(StaticBackend(bundle, threads, sources=True), tolerance.SIXTEEN_BITS if rounded else tolerance.SAME_FLOAT)
    if not qnn_sessions.is_emulated():
        missing[EMULATED] = "exists only for x86-64; a real NPU is not checked"
    elif qnn_sessions.installed() is None:
        missing[EMULATED] = f"{qnn_sessions.PACKAGE} is not installed; {pip_install('qnn')}"
    else:
        add(StaticBackend(bundle, threads), tolerance.EMULATED)


def fake_quantized(bundle: Bundle, float_model: Backend, name: str) -> Backend:
    """Eager torch on a bundle's own integers, whose other weights are those of `float_model`, the torch backend."""
    from dgemma.quantize.fake_quant import fake_quantize
    from dgemma.quantize.read_onnx import read_integers
    from dgemma.verify.torch_backend import TorchBackend

    assert isinstance(float_model, TorchBackend)
    integers = read_integers(bundle.file(bundle.graph("onnx", "denoise").file))
    manifest = bundle.manifest
    return TorchBackend(fake_quantize(float_model.model, integers), manifest.sampler, manifest.canvas_length, name=name)


def check_float_backends(bundle: Path, checkpoint: str, gate: str | None) -> None:
    """Refuse a checkpoint that nothing installed can run, before any work.

    Args:
        gate: what the gate runs it with, `torch` or `tpu`; None where only the ladder runs.
    Raises:
        UsageError: a package that is needed is not installed, or random weights are to run in JAX.
        BundleError, CheckpointError: those cannot be read.
    """
    has_torch, has_jax = (util.find_spec(name) is not None for name in ("torch", "jax"))
    if not has_torch and not has_jax:
        raise UsageError(f"--checkpoint needs package 'torch' or 'jax' to run the float model; {pip_install('export')}")
    if has_torch and gate != "tpu":
        return
    manifest, _ = read_manifest(bundle, check_files=False)
    is_random = source_checkpoint.folder_of(manifest, checkpoint) is None
    if is_random and not has_torch:
        raise UsageError(f"--checkpoint {checkpoint}: random weights need package 'torch'; {pip_install('export')}")
    if is_random and gate == "tpu":
        raise UsageError("--reference tpu: only torch can make random weights; use --reference torch")
    if gate == "torch":
        cure = f"{pip_install('export')}, or give --golden-only or --reference tpu"
        raise UsageError(f"--checkpoint {checkpoint}: the gate needs package 'torch'; {cure}")


def float_backends(bundle: Bundle, checkpoint: str, threads: int) -> tuple[list[tuple[Backend, Tolerance]], dict[str, str]]:
    """The float model's backends with their tolerances; and backend → why it is not there. Raises CheckpointError."""
    found: list[tuple[Backend, Tolerance]] = []
    missing: dict[str, str] = {}
    folder = source_checkpoint.folder_of(bundle.manifest, checkpoint)
    for dtype, limit in (("bfloat16", tolerance.BFLOAT16), ("float32", tolerance.BFLOAT16)):
        name = f"reference {dtype}"
        if util.find_spec("jax") is None:
            missing[name] = f"jax is not installed; {pip_install('reference')}"
        elif folder is None:
            missing[name] = "only torch can make random weights"
        else:
            from dgemma.verify.jax_backend import JaxBackend

            found.append((JaxBackend(folder, dtype, bundle.manifest), limit))
    if util.find_spec("torch") is None:
        missing["torch"] = f"torch is not installed; {pip_install('export')}"
        return found, missing
    import torch

    torch.set_num_threads(threads)
    found.append((source_checkpoint.load_torch(bundle.manifest, folder), tolerance.SAME_FLOAT))
    return found, missing
