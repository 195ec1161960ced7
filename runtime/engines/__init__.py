"""Engines by name. Their modules, and the packages that those import, are loaded only when an engine is used."""

from __future__ import annotations

from importlib import import_module, metadata, util

from dgemma.core.accelerators import AUTO, CPU, DELEGATES, QNN
from dgemma.core.engines import ENGINES, PACKAGES
from dgemma.core.errors import EngineError, Param, UsageError
from dgemma.core.install import pip_install
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Engine

# engine → (module, class)
_CLASSES = {
    "onnx": ("dgemma.runtime.engines.onnx", "OnnxEngine"),
    "executorch": ("dgemma.runtime.engines.executorch", "ExecutorchEngine"),
}


def installed_version(package: str) -> str | None:
    """Version of an installed package, or None. Reads metadata, for importing an engine can take seconds."""
    if util.find_spec(package) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # another distribution provides it, such as onnxruntime-gpu
        return str(getattr(import_module(package), "__version__", "0"))


def choose(bundle: Bundle, engine: str | None) -> tuple[str, str]:
    """Name and version of the engine to run: the one asked for, else the first that is in the bundle and installed.

    Raises:
        EngineError: unknown, not in the bundle, not installed, or older than the bundle needs.
    """
    inside = [name for name in ENGINES if name in bundle.manifest.graphs]
    if engine is None:
        for name in inside:
            if installed_version(PACKAGES[name]):
                return choose(bundle, name)
        extras = " or ".join(pip_install(name) for name in inside) or "export it again"
        raise EngineError(f"no engine of {bundle.path} is installed; {extras}")
    if engine not in ENGINES:
        raise EngineError(Param("engine"), f" {engine!r} is unknown; choose one of {', '.join(ENGINES)}")
    if engine not in inside:
        held = ", ".join(inside) or "none"
        raise EngineError(f"{bundle.path}: was exported without engine {engine!r} (it has: {held}); choose one of these")
    version = installed_version(PACKAGES[engine])
    if version is None:
        raise EngineError(f"engine {engine!r} is not installed; {pip_install(engine)}")
    lowest = bundle.manifest.engines.get(engine, "0")
    if release(version) < release(lowest):
        package = PACKAGES[engine]
        raise EngineError(f"{package} {version} is older than {lowest}, which the bundle needs; pip install -U {package}")
    return engine, version


def open_engine(bundle: Bundle, engine: str | None, threads: int | None, target: str = AUTO) -> Engine:
    """Make the engine of `choose`, or with target `qnn` (`qnn:CHIP`) that of an NPU; graphs are loaded on first use.

    `auto` takes an NPU where the bundle has contexts for one and this machine has it, and the processor elsewhere; never the
    emulator, and never an engine other than the one that was asked for. Raises EngineError, UsageError.
    """
    if target in DELEGATES:
        raise _only_on_devices(bundle, target)
    if target.partition(":")[0] not in (AUTO, CPU, QNN):
        raise UsageError(f"--target {target[:40]!r} is unknown; choose auto, cpu or qnn")
    if target.startswith(QNN) or (target == AUTO and engine in (None, "onnx") and _has_npu(bundle)):
        if engine not in (None, "onnx"):
            raise UsageError(f"--target qnn runs on engine 'onnx', not {engine!r}; leave --engine out")
        _, version = choose(bundle, "onnx")
        made: Engine = import_module("dgemma.runtime.engines.qnn").QnnEngine(
            bundle, version=version, threads=threads, target=QNN if target == AUTO else target
        )
        return made
    name, version = choose(bundle, engine)
    module, cls = _CLASSES[name]
    made = getattr(import_module(module), cls)(bundle, version=version, threads=threads)
    return made


def _only_on_devices(bundle: Bundle, target: str) -> EngineError:
    """Why a backend of ExecuTorch runs nothing here: what it runs is for an app."""
    if target not in bundle.manifest.targets:
        return EngineError(f"{bundle.path}: was exported without target {target!r}; export it again with --target {target}")
    return EngineError(
        f"{bundle.path}: dgemma cannot run target {target!r}: its .pte files are for an app with ExecuTorch's library "
        "(see docs/guides/accelerators.md); use --target cpu"
    )


def _has_npu(bundle: Bundle) -> bool:
    """Whether the bundle has contexts for a Snapdragon's NPU, and this machine may have one and the package for it."""
    if not any(name.startswith(f"{QNN}:") for name in bundle.manifest.targets):
        return False
    sessions = import_module("dgemma.runtime.engines.qnn_sessions")
    return not sessions.is_emulated() and sessions.installed() is not None


def release(version: str) -> tuple[int, ...]:
    """Leading integers of a version: 1.32.0+cpu → (1, 32, 0)."""
    numbers: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
