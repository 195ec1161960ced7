"""From torch modules to one `.pte` with all graphs.

The stack of layers is lowered first, and the methods are written around it: the passes over its many operations run only
once, and the file contains its programs only once. Prefix and chunk lengths vary, except in `generate`, which takes the whole
context: a lowered module inside a loop cannot be traced with an open dimension (seen with torch 2.13, executorch 1.5.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig, to_edge
from executorch.exir.passes import MemoryPlanningPass
from torch import nn
from torch.export import ExportedProgram

from dgemma.core.sampler import SamplerConfig
from dgemma.export.attention import replace_attention
from dgemma.export.deferred import deferring
from dgemma.export.executorch import native_ops
from dgemma.export.executorch.body import Check, Decode, Denoise, DenoiseActive, DenoiseGuided, Encode
from dgemma.export.executorch.dedup_constants import dedup_constants
from dgemma.export.executorch.exir_patches import patched_exir
from dgemma.export.executorch.fake_results import remembered_results
from dgemma.export.executorch.linear import replace
from dgemma.export.executorch.loop import ScanGenerate
from dgemma.export.executorch.modules import WholeAttention, WholeRMSNorm, replace_gelus, replace_modules
from dgemma.export.executorch.routing import replace_routing
from dgemma.export.executorch.visitors import our_partitioner
from dgemma.export.garbage import only_new_garbage
from dgemma.export.graphs import PREFIX_DIMS, Shapes, Stack, example, sharing, specs, stack_inputs
from dgemma.export.lazy_code import lazy_code
from dgemma.export.stages import EXECUTORCH, Progress, Reached
from dgemma.export.trace import trace
from dgemma.model.denoiser import Attention, Denoiser, RMSNorm
from dgemma.quantize.matrix import QuantizedMatrix

assert native_ops is not None  # registers the operators' forms that programs call
_CONFIG = EdgeCompileConfig(_check_ir_validity=False)
# Inputs are read where the caller has them: with a place in the arena a prefix would be copied there in every step.
WRITTEN = ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
PRODUCTS = ("mm", "bmm", "addmm", "linear", "integer_linear", "attend")


def delegated_share(program: EdgeProgramManager, method: str) -> dict[str, int]:
    """How many operations XNNPACK takes and how many are left to CPU kernels, matrix products apart.

    Not by executorch's `get_delegation_info`, which counts getitems as operations and tells operators by the names of nodes.
    """
    inside = outside = products = conversions = 0
    for _, child in program.exported_program(method).graph_module.named_modules():
        if hasattr(child, "original_module"):
            targets = [str(n.target) for n in child.original_module.graph.nodes if n.op == "call_function"]
            inside += sum("getitem" not in t for t in targets)
    for node in program.exported_program(method).graph.nodes:
        if node.op == "call_function" and "getitem" not in str(node.target) and "delegate" not in str(node.target):
            outside += 1
            conversions += any(word in str(node.target) for word in ("quantize", "to_float"))
            products += any(f".{op}" in str(node.target) for op in PRODUCTS)
    return {
        "delegated": inside,
        "on_cpu": outside,
        "matrix_products_on_cpu": products,
        "quantization_on_cpu": conversions,
    }


def delegate(program: ExportedProgram, name: str = "forward") -> EdgeProgramManager:
    """Edge dialect with everything in XNNPACK that it takes.

    As `to_edge_transform_and_lower`, which traces a program three times to decompose what XNNPACK might take and then does not.
    """
    xnnpack = our_partitioner()
    kept, _ = xnnpack.ops_to_not_decompose(program)
    config = EdgeCompileConfig(_check_ir_validity=False, preserve_ops=kept)
    with remembered_results():
        lowered = to_edge({name: replace_gelus(program)}, compile_config=config).to_backend({name: xnnpack})
    left = {node.target for node in lowered.exported_program(name).graph.nodes if getattr(node.target, "_op", None) in kept}
    assert not left, f"{left} are whole and not in XNNPACK"
    return lowered


def as_module(program: EdgeProgramManager) -> nn.Module:
    """A lowered program as a module that others can be traced around."""
    module: nn.Module = program.exported_program().module(check_guards=False)
    return module


def lower(
    model: Denoiser,
    quantized: Mapping[str, QuantizedMatrix],
    policy: SamplerConfig,
    shapes: Shapes,
    path: Path,
    progress: Progress,
) -> dict[str, dict[str, int]]:
    """Write the `.pte`; returns per method the operations delegated and left on the CPU."""
    model = sharing(model)
    wanted = specs(model.config, shapes, policy)
    edge: dict[str, Any] = {}
    share = {}
    with patched_exir(), torch.no_grad(), deferring(), only_new_garbage():
        replace(model, quantized)
        replace_attention(model)
        replace_modules(model, RMSNorm, WholeRMSNorm)
        replace_modules(model, Attention, WholeAttention)
        replace_routing(model)
        with lazy_code():
            progress(Reached(EXECUTORCH["layers"]))
            body = Stack(model).eval()
            stack = as_module(delegate(trace(body, stack_inputs(model.config), shapes)))
            methods = {
                "encode": Encode(model, stack),
                "denoise": Denoise(model, stack, policy),
                "denoise_guided": DenoiseGuided(model, stack, policy),
                "denoise_active": DenoiseActive(model, stack, policy),
                "decode": Decode(model, stack),
                "check": Check(model, stack),
            }
            lowered: dict[str, EdgeProgramManager] = {}
            for name, module in methods.items():
                progress(Reached(EXECUTORCH[name]))
                lowered[name] = delegate(trace(module, wanted[name][0], shapes), name)
                edge[name], share[name] = lowered[name].exported_program(name), delegated_share(lowered[name], name)
        progress(Reached(EXECUTORCH["generate"]))
        step = lowered["denoise"].exported_program("denoise").module(check_guards=False)
        looped = ScanGenerate(step, model.config.vocab_size, model.config.hidden_size)
        given = example(wanted["generate"][0], dict.fromkeys(PREFIX_DIMS, shapes.context))
        outer = torch.export.export(looped, given, strict=True)
        with remembered_results(), lazy_code():
            edge["generate"], share["generate"] = to_edge(outer, compile_config=_CONFIG).exported_program(), share["denoise"]
        progress(Reached(EXECUTORCH["write"]))
        with remembered_results(), lazy_code():
            final = EdgeProgramManager(edge, compile_config=_CONFIG).to_executorch(WRITTEN)
        with path.open("wb") as file:
            final.write_to_file(file)
        table: Any = model.embed_tokens  # a FloatEmbedding or an IntegerEmbedding
        dedup_constants(path, table.tables("embed_tokens"))
    return share
