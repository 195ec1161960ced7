"""From torch modules to one `.pte` with encode, denoise, generate and decode.

Prefix and chunk lengths vary in encode, denoise and decode; `generate` takes the whole context, for a lowered module
inside a loop cannot be traced with an open dimension (seen with torch 2.13, executorch 1.5.1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig, to_edge, to_edge_transform_and_lower

from dgemma.core.sampler import SamplerConfig
from dgemma.export.executorch.gelu import write_out_gelu
from dgemma.export.executorch.linear import replace
from dgemma.export.executorch.loop import ScanGenerate
from dgemma.export.executorch.norm import replace_norms
from dgemma.export.graphs import Decode, Denoise, Encode, Shapes, example, specs
from dgemma.export.trace import trace
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.integers import QuantizedMatrix

Progress = Callable[[str], None]
_CONFIG = EdgeCompileConfig(_check_ir_validity=False)


def delegated_share(program: EdgeProgramManager, method: str) -> dict[str, int]:
    """How many operations XNNPACK takes and how many are left to CPU kernels, matrix products apart."""
    inside = outside = products = conversions = 0
    for _, child in program.exported_program(method).graph_module.named_modules():
        if hasattr(child, "original_module"):
            targets = [str(n.target) for n in child.original_module.graph.nodes if n.op == "call_function"]
            inside += sum("getitem" not in t for t in targets)
    for node in program.exported_program(method).graph.nodes:
        if node.op == "call_function" and "getitem" not in str(node.target) and "delegate" not in str(node.target):
            outside += 1
            conversions += "quantize" in str(node.target)
            products += any(f"aten.{op}" in str(node.target) for op in ("mm", "bmm", "addmm", "linear"))
    return {
        "delegated": inside, "on_cpu": outside, "matrix_products_on_cpu": products, "quantization_on_cpu": conversions,
    }  # fmt: skip


def lower(
    model: Denoiser,
    quantized: dict[str, QuantizedMatrix],
    policy: SamplerConfig,
    shapes: Shapes,
    path: Path,
    progress: Progress,
) -> dict[str, dict[str, int]]:
    """Write the `.pte`; returns per method the operations delegated and left on the CPU."""
    model = copy.deepcopy(model).requires_grad_(False)
    replace(model, quantized)
    replace_norms(model, model.config.hidden_size)
    wanted = specs(model.config, shapes, policy.steps)
    denoise = Denoise(model, policy).eval()
    modules = {"encode": Encode(model).eval(), "denoise": denoise, "decode": Decode(model).eval()}
    edge: dict[str, Any] = {}
    share = {}
    for name, module in modules.items():
        progress(f"executorch: {name}")
        traced = write_out_gelu(trace(module, wanted[name][0], shapes))
        lowered = to_edge_transform_and_lower({name: traced}, partitioner=[XnnpackPartitioner()], compile_config=_CONFIG)
        edge[name], share[name] = lowered.exported_program(name), delegated_share(lowered, name)
    progress("executorch: generate")
    sizes = {"S": shapes.context}
    with torch.no_grad():
        program = write_out_gelu(torch.export.export(denoise, example(wanted["denoise"][0], sizes)))
        step = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], compile_config=_CONFIG)
        share["generate"] = delegated_share(step, "forward")
        looped = ScanGenerate(step.exported_program().module(check_guards=False), policy, model.config.hidden_size)
        outer = torch.export.export(looped, example(wanted["generate"][0], sizes), strict=True)
    edge["generate"] = to_edge(outer, compile_config=_CONFIG).exported_program()
    progress("executorch: write")
    final = EdgeProgramManager(edge, compile_config=_CONFIG).to_executorch(ExecutorchBackendConfig())
    with path.open("wb") as file:
        final.write_to_file(file)
    return share
