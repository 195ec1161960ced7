"""Exported programs → a `.pte` whose methods are functions of one Core ML model, which stores their weights once.

The bytes depend only on the input: whatever coremltools and executorch choose at random is replaced. It knows nothing of
denoisers.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from torch.export import ExportedProgram

from dgemma.export.patching import replaced

BACKEND = "CoreMLBackend"
LOWEST_OS = "iOS 18, macOS 15"  # integers in blocks are constants from there on
SPECIFICATION = 9  # of Core ML models for these
MODEL = Path("model.mlpackage/Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("model.mlpackage/Data/com.apple.CoreML/weights/weight.bin")


def partitioner() -> Any:
    """Float16 throughout, every operator or an error, methods as functions of one model."""
    import coremltools as ct
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=ct.target.iOS18, compute_precision=ct.precision.FLOAT16
    )
    return CoreMLPartitioner(compile_specs=specs, lower_full_graph=True)


def edge() -> None:
    """ExecuTorch's own preparation of a program will do."""


@contextmanager
def repeatable(programs: Mapping[str, ExportedProgram], scratch: Path) -> Iterator[None]:
    """While it lasts, equal Core ML models are packed to equal bytes, without dates and random names; GELUs keep their kind;
    and coremltools shows no progress bars. Its files go below `scratch`."""
    preprocess: Any = import_module("executorch.backends.apple.coreml.compiler.coreml_preprocess")
    native = preprocess.executorchcoreml
    bars = (("mil.passes.pass_pipeline", "tqdm"), ("frontend.torch.ops", "_tqdm"))
    seed = _digest(programs)
    count = iter(range(1 << 30))

    def drawn() -> uuid.UUID:
        """Where a device keeps what it compiled is named by this, so it must differ between models."""
        return uuid.UUID(bytes=hashlib.sha256(f"{seed} {next(count)}".encode()).digest()[:16])

    with ExitStack() as patches:
        patches.enter_context(replaced(preprocess, "uuid", SimpleNamespace(uuid4=drawn)))
        patches.enter_context(
            replaced(preprocess, "executorchcoreml", SimpleNamespace(flatten_directory_contents=_packed(native)))
        )
        patches.enter_context(replaced(tempfile, "tempdir", str(scratch)))
        for module, name in bars:
            patches.enter_context(replaced(import_module(f"coremltools.converters.mil.{module}"), name, _no_bar))
        # Checked after every pass of a hundred, which takes half of the time; what comes of it is read back.
        program: Any = import_module("coremltools.converters.mil.mil.program").Program
        patches.enter_context(replaced(program, "validate", lambda *_, **__: None))
        registry: Any = import_module("coremltools.converters.mil.frontend.torch.torch_op_registry")
        patches.enter_context(patch.dict(registry._TORCH_OPS_REGISTRY.name_to_func_mapping, {"gelu": _gelu}))
        yield


def _gelu(context: Any, node: Any) -> None:
    """Stands in for coremltools' conversion, which drops the keyword `approximate` of an exported program, and so makes every
    GELU the exact one (seen with 9.0)."""
    ops: Any = import_module("coremltools.converters.mil.frontend.torch.ops")
    (kind,) = ops._get_kwinputs(context, node, "approximate", default=[None])
    mode = "TANH_APPROXIMATION" if getattr(kind, "val", kind) == "tanh" else "EXACT"
    context.add(ops.mb.gelu(x=ops._get_inputs(context, node)[0], mode=mode, name=node.name))


def _no_bar(items: Any = None, *_: Any, **__: Any) -> Any:
    return items


def _digest(programs: Mapping[str, ExportedProgram]) -> str:
    """Of what is computed and with which numbers."""
    found = hashlib.sha256()
    seen = set[int]()
    for name, program in programs.items():
        found.update(f"{name}\n{program.graph_module.code}".encode())
        for key, tensor in sorted({**program.state_dict, **program.constants}.items()):
            found.update(key.encode())
            if hasattr(tensor, "data_ptr") and tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                found.update(memoryview(tensor.detach().contiguous().numpy()).cast("B"))
    return found.hexdigest()


def _packed(native: Any) -> Callable[[str], bytes]:
    """Stands in for `flatten_directory_contents`: first every file of a model's folder gets the bytes that its content says."""

    def flatten(folder: str) -> bytes:
        from coremltools.proto import Model_pb2

        path = Path(folder) / MODEL
        model = Model_pb2.Model()
        model.ParseFromString(path.read_bytes())
        model.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
        path.write_bytes(model.SerializeToString(deterministic=True))
        manifest = Path(folder) / MODEL.parts[0] / "Manifest.json"
        manifest.write_text(json.dumps(_named_items(json.loads(manifest.read_text())), indent=1), encoding="utf-8")
        packed: bytes = native.flatten_directory_contents(folder)
        return packed

    return flatten


def _named_items(manifest: dict[str, Any]) -> dict[str, Any]:
    """A package's manifest with ids that follow from its items' paths."""
    items = {key: manifest["itemInfoEntries"][key] for key in manifest["itemInfoEntries"]}
    names = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for key, item in items.items()}
    entries = {names[key]: items[key] for key in sorted(items, key=names.__getitem__)}
    return {**manifest, "itemInfoEntries": entries, "rootModelIdentifier": names[manifest["rootModelIdentifier"]]}
