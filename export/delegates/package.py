"""What a `.pte` file contains, read back: what its methods call, and the Core ML model behind that.

It knows nothing of how the file was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from executorch.exir._serialize._program import _flatbuffer_to_program
from executorch.exir.schema import BackendDelegate, DataLocation, DelegateCall, Program, Tensor

from dgemma.export.delegates.forms import Form
from dgemma.export.executorch.pte import Layout

_REFERENCE = b"CMJR"  # of executorch's Core ML backend: a name follows of the data that several methods share
_KINDS = {6: "float32", 5: "float16"}  # of executorch's scalar types


@dataclass(frozen=True, kw_only=True)
class Call:
    """The one thing that a method does: a call of a backend.

    Args:
        inputs, outputs: of the method, in the backend's order: input i of the backend is the method's input `inputs[i]`.
        shapes: of the method's inputs and outputs, with their dtypes.
    """

    backend: str
    processed: bytes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[tuple[str, tuple[int, ...]], ...], tuple[tuple[str, tuple[int, ...]], ...]]


class PteFile:
    """An open `.pte`; segments are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._layout = Layout.read(file)
        self._program: Program = _flatbuffer_to_program(bytes(self._layout.head))

    @property
    def named(self) -> dict[str, int]:
        """Key of shared data → bytes."""
        return {key: self._layout.spans[i][1] for key, i in self._layout.named().items()}

    def data(self, key: str) -> bytes:
        """Shared data; raises KeyError."""
        return self._segment(self._layout.named()[key])

    def calls(self) -> dict[str, list[Call | str]]:
        """Method → its instructions: calls of backends, and of whatever else there is the kind."""
        return {
            plan.name: [self._call(plan, i.instr_args) for c in plan.chains for i in c.instructions] for plan in self._plans
        }

    @property
    def _plans(self) -> Sequence[Any]:
        return self._program.execution_plan

    def _segment(self, index: int) -> bytes:
        start, size = self._layout.spans[index]
        with self.path.open("rb") as file:
            file.seek(self._layout.base + start)
            return file.read(size)

    def _call(self, plan: Any, instruction: Any) -> Call | str:
        if not isinstance(instruction, DelegateCall):
            return type(instruction).__name__
        delegate: BackendDelegate = plan.delegates[instruction.delegate_index]
        place = delegate.processed
        raw = (
            self._program.backend_delegate_data[place.index].data
            if place.location == DataLocation.INLINE
            else self._segment(place.index)
        )
        taken = [i for i in instruction.args if i in plan.inputs]
        given = [i for i in instruction.args if i in plan.outputs]
        return Call(
            backend=delegate.id,
            processed=bytes(raw),
            inputs=tuple(plan.inputs.index(i) for i in taken),
            outputs=tuple(plan.outputs.index(i) for i in given),
            shapes=(tuple(_shape(plan, i) for i in plan.inputs), tuple(_shape(plan, i) for i in plan.outputs)),
        )


def _shape(plan: Any, index: int) -> tuple[str, tuple[int, ...]]:
    tensor = plan.values[index].val
    assert isinstance(tensor, Tensor)
    return _KINDS.get(int(tensor.scalar_type), str(tensor.scalar_type)), tuple(tensor.sizes)


def the_calls(file: PteFile, methods: Sequence[Form], backend: str) -> dict[str, Call]:
    """Method → its call of a backend, which must be all that it does; raises ValueError."""
    found = dict[str, Call]()
    held = file.calls()
    for form in methods:
        instructions = held.get(form.name, [])
        call = instructions[0] if len(instructions) == 1 else None
        if not isinstance(call, Call) or call.backend != backend:
            raise ValueError(f"method {form.name} does not consist of a single call of {backend}")
        for specs, shapes in zip((form.inputs, form.outputs), call.shapes, strict=True):
            if [(s.dtype, s.shape) for s in specs] != list(shapes):
                raise ValueError(f"method {form.name} has other tensors than the manifest says")
        found[form.name] = call
    return found


@dataclass(frozen=True, kw_only=True)
class CoreMLFunction:
    """Where a method's function is: its name in the model, and its inputs and outputs in the backend's order."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@contextmanager
def unpacked(file: PteFile, calls: dict[str, Call]) -> Iterator[tuple[Path, dict[str, CoreMLFunction]]]:
    """The folder of the Core ML model that all methods of a file share, and method → function; raises ValueError."""
    from executorch.backends.apple.coreml import executorchcoreml

    keys = set()
    for method, call in calls.items():
        if not call.processed.startswith(_REFERENCE):
            raise ValueError(f"method {method} has a model of its own")
        keys.add(json.loads(call.processed[len(_REFERENCE) :])["key"])
    if len(keys) != 1:
        raise ValueError(f"methods have {len(keys)} models")
    with TemporaryDirectory(prefix="dgemma-coreml-") as name:
        executorchcoreml.unflatten_directory_contents(file.data(keys.pop()), name)
        folder = next(path.parent for path in Path(name).rglob("metadata.json"))
        described = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["methods"]
        yield (
            folder,
            {
                method: CoreMLFunction(name=method, inputs=tuple(of["inputNames"]), outputs=tuple(of["outputNames"]))
                for method, of in described.items()
            },
        )
