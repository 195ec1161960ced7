"""`dgemma inspect`: what a bundle contains, after hashing every file, and the last result of `dgemma verify`.

Of a compiled structure, what it was compiled from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dgemma.cli.options import BundleArgument
from dgemma.cli.terminal import print_json
from dgemma.core.compiled_structure import BEGINS, CompiledStructure
from dgemma.core.manifest import ChatTemplate, GraphSpec, TensorSpec
from dgemma.core.plural import counted
from dgemma.core.shipped import is_shipped
from dgemma.core.structure import Structure
from dgemma.runtime import cache
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import executorch
from dgemma.runtime.targets import describe
from dgemma.verify import outcome


def run(
    bundle: BundleArgument,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also show graphs, tensors, tools and files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: the manifest, verified.")] = False,
) -> None:
    if (structure := _structure(bundle)) is not None:
        print_json(structure.head) if as_json else print(f"structure     {bundle}: {structure}")
        return
    opened = Bundle.open(bundle)
    if as_json:
        total = sum(entry.size for entry in opened.manifest.files.values())
        found, problem = outcome.read(opened.path)
        kept = [{"path": str(path), "bytes": size, "sound": sound} for path, size, sound in cache.held(opened.digest)]
        more = {"verified": True, "total_bytes": total, "cache": kept, "verify": found, "verify_problem": problem}
        if found is not None and found["digest"] != opened.digest:
            more |= {"verify": None, "verify_problem": f"the stored result of `dgemma verify` is for digest {found['digest']}"}
        more["executorch_variant"] = executorch.variant()
        print_json({**opened.manifest.to_dict(), **more})
    else:
        print("\n".join(summary(opened) if verbose else brief(opened)))


def _structure(path: Path) -> CompiledStructure | None:
    """What a file that begins as a compiled structure holds; None of anything else. Raises UsageError."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        begins = file.read(len(BEGINS)) == BEGINS
    return Structure.read(path).compiled if begins else None


def brief(bundle: Bundle) -> list[str]:
    """About fifteen lines: what it is, how it was quantized, what runs it, what verify found."""
    manifest, values = bundle.manifest, bundle.manifest.quantization
    bits = values.get("bits") or {}
    each = ", ".join(f"{name} {b}" for name, b in bits.items()) if len(set(bits.values())) > 1 else ""
    mean = f", {values['bits_per_weight']:.3g} bits a weight" if "bits_per_weight" in values else ""
    lines = _head(bundle)
    lines.append(f"quantization  {values['recipe']}{mean}{f' ({each})' if each else ''}")
    for engine, graphs in manifest.graphs.items():
        here = f"; here: {executorch.variant()}" if engine == "executorch" else ""
        lines.append(f"{engine:<13} {', '.join(graphs)}; needs {manifest.engines.get(engine, 'any version')} or newer{here}")
    origin = [str(manifest.provenance[name]) for name in ("name", "licence") if manifest.provenance.get(name)]
    lines.append(f"checkpoint    {', '.join(origin) or 'unknown'}")
    total = sum(entry.size for entry in manifest.files.values())
    lines.append(
        f"files         {counted(len(manifest.files), 'file')}, {total / 1e6:,.1f} MB; --verbose lists them, and all tensors"
    )
    for name, target in manifest.targets.items():
        lines += describe(name, target)
    kept = cache.held(bundle.digest)
    if kept:
        damaged = "" if all(sound for *_, sound in kept) else ", some damaged (made again when needed)"
        lines.append(f"kept here     {sum(size for _, size, _ in kept) / 1e6:,.1f} MB of packed weights{damaged}")
    return lines


def summary(bundle: Bundle) -> list[str]:
    """All of it: graphs and tensors, quantization, tools, provenance, files."""
    manifest, lines = bundle.manifest, _head(bundle)
    for name, values in (
        ("quantization", manifest.quantization),
        ("tools", manifest.tools),
        ("provenance", manifest.provenance),
    ):
        lines += _section(name, values)
    for engine, graphs in manifest.graphs.items():
        here = f"; here: {executorch.variant()}" if engine == "executorch" else ""
        lines.append(f"{engine} (needs {manifest.engines.get(engine, 'any version')} or newer{here})")
        for name, spec in graphs.items():
            lines += _graph(name, spec)
    for name, target in manifest.targets.items():
        lines += describe(name, target)
    lines.append("files")
    lines += [f"  {entry.size:>12,}  {name}" for name, entry in manifest.files.items()]
    lines.append(f"  {sum(e.size for e in manifest.files.values()):>12,}  in all, bytes")
    lines.append(f"packed weights kept on this machine{'' if cache.enabled() else ' (DGEMMA_CACHE is off)'}")
    kept = cache.held(bundle.digest)
    for path, size, sound in kept:
        lines.append(f"  {size:>12,}  {path}{'' if sound else ' (damaged; made again when needed)'}")
    lines += [] if kept else ["  none"]
    return lines


def _head(bundle: Bundle) -> list[str]:
    """Model, canvas, sampler, tokenizer, chat, and what verify found."""
    manifest, model = bundle.manifest, bundle.manifest.model
    kind = f"{model.num_experts} experts, {model.top_k_experts} per token" if model.is_moe else "dense"
    sampler = ", ".join(f"{k} {v}" for k, v in manifest.sampler.to_dict().items())
    found, problem = outcome.read(bundle.path)
    judged = outcome.lines(found, bundle.digest) if found else [f"verify        {problem or _unverified(bundle)}"]
    return [
        f"bundle        {bundle.path} (format {manifest.format_version}, every file verified)",
        f"digest        {bundle.digest}",
        f"model         {model.num_layers} layers, hidden {model.hidden_size}, vocabulary {model.vocab_size}, {kind}",
        f"canvas        {manifest.canvas_length} tokens, {manifest.steps} steps, context {manifest.context}",
        f"sampler       {sampler}",
        f"tokenizer     {manifest.tokenizer.file if manifest.tokenizer else 'none'}",
        f"chat          {_chat(manifest.chat)}",
        *judged,
    ]


def _unverified(bundle: Bundle) -> str:
    if is_shipped(bundle.path):
        return f"none is stored for a shipped bundle; dgemma verify {bundle.path.stem} runs its checks"
    return "none; see dgemma verify"


def _chat(chat: ChatTemplate | None) -> str:
    """What conversations may hold."""
    if chat is None:
        return "no"
    has: list[tuple[str, object]] = [("user", True), ("assistant", True)]
    if chat.roles:
        has += [("system", "system" in chat.roles.openings), ("thinking", chat.roles.thinks), ("tools", chat.roles.tools)]
    return ", ".join(name for name, there in has if there)


def _graph(name: str, spec: GraphSpec) -> list[str]:
    where = spec.file + (f":{spec.method}" if spec.method else "")
    return [f"  {name}  {where}", f"    in   {_tensors(spec.inputs)}", f"    out  {_tensors(spec.outputs)}"]


def _tensors(tensors: tuple[TensorSpec, ...]) -> str:
    """Tensors in order; those of the layers are named once, with their number."""
    shown: list[str] = []
    by_stem: dict[str, list[str]] = {}
    for t in tensors:
        text = f"{t.name} {t.dtype}[{', '.join(map(str, t.shape))}]"
        stem, _, layer = t.name.rpartition("_")
        if layer.isdigit():
            by_stem.setdefault(stem, []).append(text)
        else:
            shown.append(text)
    return ", ".join([*shown, *(texts[0] + (f" … {len(texts)} layers" if texts[1:] else "") for texts in by_stem.values())])


def _section(name: str, values: dict[str, Any]) -> list[str]:
    shown = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in values.items()}
    return [f"{name}", *(f"  {k}: {v if len(v) <= 200 else v[:200] + '…'}" for k, v in shown.items())]
