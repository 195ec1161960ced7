"""Sessions of onnxruntime-qnn: on a Snapdragon NPU, or in the emulator that the package has for x86-64.

The emulator crashes on contexts with several graphs (seen with onnxruntime-qnn 2.7.0), so there each graph is compiled from its
source when it is first used; a phone opens the context that was compiled ahead of time. In both cases, no node may run on the
processor. It knows nothing of the model.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from dgemma.core.errors import EngineError
from dgemma.core.install import pip_install

PACKAGE = "onnxruntime-qnn"
_PROVIDER = "QNN"


def installed() -> tuple[str, str] | None:
    """Versions of the package and of its QAIRT, or None where it is not installed."""
    try:
        version = metadata.version(PACKAGE)
        return version, str(import_module("onnxruntime_qnn.build_and_package_info").qnn_version)
    except (metadata.PackageNotFoundError, ImportError):
        return None


def is_emulated() -> bool:
    """Whether this machine has no such NPU: the package's x86-64 build emulates it."""
    return platform.machine().lower() in ("x86_64", "amd64")


def check(qairt: str, where: str) -> str:
    """The package's version; raises EngineError where it is missing, or has another QAIRT than the contexts need."""
    found = installed()
    if found is None:
        raise EngineError(f"{where}: target 'qnn' needs package {PACKAGE}; {pip_install('qnn')}, or use --target cpu")
    version, own = found
    if own.split(".")[:2] != qairt.split(".")[:2]:
        raise EngineError(
            f"{where}: its contexts were compiled with QAIRT {qairt}, and {PACKAGE} {version} has {own}; install the "
            f"release of {PACKAGE} with QAIRT {qairt}, or export the bundle again"
        )
    return version


@cache
def _device() -> Any:
    """The NPU, or its emulator; raises EngineError."""
    import onnxruntime as ort

    package = import_module("onnxruntime_qnn")
    with _quiet():
        ort.register_execution_provider_library(_PROVIDER, package.get_library_path())
        found = [d for d in ort.get_ep_devices() if d.ep_name == _PROVIDER]
    kind = ort.OrtHardwareDeviceType.CPU if is_emulated() else ort.OrtHardwareDeviceType.NPU
    fitting = [d for d in found if d.device.type == kind]
    if not fitting:
        raise EngineError(f"{PACKAGE} finds no NPU on this machine; use --target cpu")
    return fitting[0]


def open_graph(
    path: Path, options: dict[str, str], *, shared: bool, threads: int | None = None, model: bytes | None = None
) -> Any:
    """A session of a source graph, or with `shared` of a wrapper around a context that holds several; of `model` in place of
    what the file says, where that is given.

    Raises EngineError, with the library's own reason, where it refuses the graph or would leave a node to the processor.
    """
    import onnxruntime as ort

    device, package = _device(), import_module("onnxruntime_qnn")
    made = ort.SessionOptions()
    made.log_severity_level = 4
    if threads is not None:
        made.intra_op_num_threads = threads
    made.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if model is not None:
        made.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.absolute().parent))
    if shared:
        made.add_session_config_entry("ep.share_ep_contexts", "1")
    made.add_provider_for_devices([device], {"backend_path": package.get_qnn_htp_path(), **options})
    try:
        with _quiet():
            return ort.InferenceSession(str(path) if model is None else model, made)
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:200]
        raise EngineError(
            f"{path}: the NPU refused this graph ({reason}); export the bundle again, or use --target cpu"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what native libraries print while they load off stdout and stderr, where `--json` has the only line."""
    saved: list[tuple[int, int]] = []
    with suppress(OSError):
        sys.stdout.flush()
        sink = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            with suppress(OSError):
                saved.append((number, os.dup(number)))
                os.dup2(sink, number)
        os.close(sink)
    try:
        yield
    finally:
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
