"""Exported programs → a `.pte` whose methods Vulkan's backend computes, in float16; and a written file compared with its model.

Weights are named by their content in the file, so methods share them. It knows nothing of denoisers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from dgemma.core.accelerators import VULKAN
from dgemma.export.delegates import vulkan_graph
from dgemma.export.delegates.forms import Form
from dgemma.export.delegates.package import Call, PteFile, the_calls
from dgemma.export.delegates.read_back import check_errors, check_operators, refusing
from dgemma.export.delegates.recorded import Recorded, error

BACKEND = "VulkanBackend"
NEEDS = "a GPU with Vulkan 1.1 and 16-bit storage"


def partitioner() -> Any:
    """Float16 throughout."""
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return VulkanPartitioner({"force_fp16": True})


def edge() -> Any:
    """Preparation of a program: operators of torchao and of Vulkan are no core operators."""
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_check_ir_validity=False)


@contextmanager
def repeatable(programs: Mapping[str, ExportedProgram], scratch: Path) -> Iterator[None]:
    """Vulkan's files hold nothing random."""
    yield


def check(path: Path, methods: list[Form], step: Recorded) -> None:
    """Calls, operators, precision, shapes, and what is computed of a recorded step. Raises ExportError."""
    with refusing(VULKAN, path):
        file = PteFile(path)
        calls = the_calls(file, methods, BACKEND)
        for form in methods:
            call = calls[form.name]
            graph = vulkan_graph.read(call.processed, file.data)
            _check_form(form, call, graph)
            if step.takes(form):
                check_errors(form, errors(form, call, graph, step))


def _check_form(form: Form, call: Call, graph: vulkan_graph.Graph) -> None:
    check_operators(form, graph.operators, vulkan_graph.OPERATORS, graph.dtypes)
    for specs, order, shapes in ((form.inputs, call.inputs, graph.inputs), (form.outputs, call.outputs, graph.outputs)):
        if [specs[i].shape for i in order] != list(shapes):
            raise ValueError(f"{form.name} has other shapes than the manifest says")


def errors(form: Form, call: Call, graph: vulkan_graph.Graph, step: Recorded) -> dict[str, float]:
    """Output → error of the graph as it was written, computed by torch in float16, from the model's."""
    feeds, wanted = step.feeds(form), step.wanted(form)
    got = graph.run([feeds[form.inputs[i].name] for i in call.inputs])
    outputs = {form.outputs[i].name: array for i, array in zip(call.outputs, got, strict=True)}
    return {t.name: error(outputs[t.name], wanted[t.name]) for t in form.outputs}
