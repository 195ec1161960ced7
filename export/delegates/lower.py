"""From a model to `.pte` files for a backend of ExecuTorch: ranges, static methods, the compiler, and checks of the files.

It knows nothing of what runs the files; nothing in this package does.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from dgemma.core.errors import ExportError
from dgemma.core.manifest import StaticGraph, TargetSpec
from dgemma.export.delegates import backends, forms, modules
from dgemma.export.delegates.backends import Backend
from dgemma.export.delegates.forms import Form
from dgemma.export.delegates.recorded import Recorded, error, record
from dgemma.export.request import ExportRequest, Weights
from dgemma.export.spans import split
from dgemma.export.stages import Progress, Reached
from dgemma.export.static import Sizes, range_prompts, recorded_ranges, table_of, tiles, write_constants

LARGEST = 65_504.0  # of float16
EAGER = 1e-3  # of the traced methods, in float32, from the model: what else a lowering starts from is another model


def lower(request: ExportRequest, weights: Weights, stage: Path, progress: Progress) -> dict[str, TargetSpec]:
    """Write methods and constants below `stage`, whose `onnx` folder is written; returns the target by its name.

    Raises ExportError where the backend refuses a method, leaves an operator out, or wrote something else than the model.
    """
    target, model, config = request.target.backend, weights.model, weights.model.config
    backend = backends.of(target)
    folder = stage / target
    folder.mkdir()
    progress(Reached(f"{target}: ranges"))
    prompts = range_prompts(request)
    found = recorded_ranges(request, weights, prompts, f"{target}: ranges", progress)
    _check_ranges(target, found)
    step = record(model, weights.quantized, request.sampler, prompts[0])
    source = modules.Source(model=model, quantized=weights.quantized, ranges=found, zeros=backend.zeros)
    sizes = Sizes.of(request.shapes, config)
    graphs = list[StaticGraph]()
    planned = list(
        forms.files(config, sizes, request.shapes.canvas, split(config, request.recipe, target), tiles(config.vocab_size))
    )
    for number, (name, methods) in enumerate(planned):

        def say(line: str, name: str = name, share: float = number / len(planned)) -> None:
            progress(Reached(f"{target}: lower", f"{name}, {line}", share))

        write(backend, source, methods, folder / name, step, say)
        graphs += [form.graph(f"{target}/{name}") for form in methods]
    write_constants(folder / "constants.npz", model)
    spec = TargetSpec(
        precision="fp16" if not weights.quantized else "w16",
        versions={package: metadata.version(package) for package in backend.packages},
        options=dict(backend.options),
        placement={
            "embeddings, rotations, masks": "cpu",
            "self-conditioning, layers, products of the head": target,
            "cap, sampler, soft embedding": "cpu",
        },
        needs=backend.needs,
        local=sizes.local,
        constants=f"{target}/constants.npz",
        table=table_of(stage, weights),
        graphs=tuple(graphs),
    )
    return {target: spec}


def _check_ranges(target: str, found: Mapping[str, float]) -> None:
    name, largest = max(found.items(), key=lambda item: item[1])
    if largest > LARGEST:
        module, _, side = name.rpartition(".")
        raise ExportError(
            f"--target {target}: {module} {'reads' if side == 'in' else 'writes'} values up to {largest:.3g}; float16 ends at "
            f"{LARGEST:,.0f}; leave --target out"
        )


def write(
    backend: Backend,
    source: modules.Source,
    methods: list[Form],
    path: Path,
    step: Recorded,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Trace the methods, have the backend compile them, write the file, read it back and compare it; raises ExportError.

    `say` is told what is being done.
    """
    programs = trace(source, methods, say)
    for form in methods:
        if step.takes(form):
            _check_eager(backend, form, programs[form.name], step)
    say(f"compiling {len(methods)} methods")
    with TemporaryDirectory(prefix="dgemma-", dir=path.parent) as scratch:
        made = compiled(backend, programs, Path(scratch))
        with path.open("wb") as file:
            made.write_to_file(file)
    del programs, made
    gc.collect()
    say("reading it back")
    backend.check(path, methods, step)


@torch.no_grad()
def trace(
    source: modules.Source, methods: list[Form], say: Callable[[str], None] = lambda _: None
) -> dict[str, ExportedProgram]:
    """Method → program; parts of one span share their module."""
    made: dict[tuple[str, tuple[int, int]], nn.Module] = {}
    found = {}
    for number, form in enumerate(methods, 1):
        say(f"tracing method {number} of {len(methods)}")
        key = form.part, form.span
        if key not in made:
            made[key] = _part(source, form).requires_grad_(False).eval()
        example = tuple(torch.zeros([int(n) for n in t.shape]) for t in form.inputs)
        found[form.name] = torch.export.export(made[key], example)
    return found


def _part(source: modules.Source, form: Form) -> nn.Module:
    if form.part == "condition":
        return modules.Condition(source)
    return modules.Layers(source, form.span) if form.part == "layers" else modules.Head(source, form.span)


@torch.no_grad()
def eager(program: ExportedProgram, form: Form, step: Recorded) -> dict[str, float]:
    """Output → error of what will be lowered, computed by torch in float32, from the model's."""
    feeds = step.feeds(form)
    outputs: Any = program.module()(*(torch.from_numpy(feeds[t.name]) for t in form.inputs))
    given = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    wanted = step.wanted(form)
    return {t.name: error(o.numpy(), wanted[t.name]) for t, o in zip(form.outputs, given, strict=True)}


def _check_eager(backend: Backend, form: Form, program: ExportedProgram, step: Recorded) -> None:
    name, worst = max(eager(program, form, step).items(), key=lambda item: item[1])
    if not worst <= EAGER:
        raise ExportError(
            f"--target {backend.name}: {name} of method {form.name} differs from the model's by {worst:.1e} (relative) "
            "before it is lowered; this is a bug in dgemma: please report it, and leave --target out"
        )


def compiled(backend: Backend, programs: dict[str, ExportedProgram], scratch: Path) -> Any:
    """The backend's program, with one call of the backend in each method and nothing beside it; raises ExportError."""
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower

    with backend.repeatable(programs, scratch):
        try:
            lowered = to_edge_transform_and_lower(
                programs, partitioner={name: [backend.partitioner()] for name in programs}, compile_config=backend.edge()
            )
            made = lowered.to_executorch()
        except Exception as problem:  # of many kinds
            reason = " ".join(str(problem).split())[:200]
            raise ExportError(
                f"--target {backend.name}: its compiler refused {next(iter(programs))} or another of its methods ({reason}); "
                "use another recipe, or leave --target out"
            ) from problem
    for name in programs:
        info = get_delegation_info(lowered.exported_program(name).graph_module)
        left = [kind for kind, count in info.delegation_by_operator.items() if count.non_delegated and "getitem" not in kind]
        if left or info.num_delegated_subgraphs != 1:
            raise ExportError(
                f"--target {backend.name}: method {name} has {info.num_delegated_subgraphs} calls of the backend, and outside "
                f"of them {', '.join(left) or 'nothing'}; use another recipe, or leave --target out"
            )
    return made
