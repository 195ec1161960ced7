"""Which peers there are for a bundle: their commands, the memory that they need, and why one cannot run here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import util
from pathlib import Path

from dgemma.benchmarks.studies.peers import gguf, llama, llama_binding, peer
from dgemma.benchmarks.studies.peers.peer import Peer, Sample
from dgemma.benchmarks.studies.peers.transformers_step import COMPILED, DTYPES, first_layers
from dgemma.core.errors import UsageError
from dgemma.core.manifest import Manifest
from dgemma.core.memory import available
from dgemma.core.shapes import parameter_count
from dgemma.runtime import memory

OURS = "dgemma"
TRANSFORMERS = tuple(f"transformers/{how}/{dtype}" for how in ("eager", "compiled") for dtype in DTYPES)
LLAMA = tuple(f"llama.cpp/{kind}" for kind in gguf.KINDS)
LLAMA_DIFFUSION = "llama.cpp/diffusion"
NAMES = (*TRANSFORMERS, *LLAMA, LLAMA_DIFFUSION)
_LIBRARIES = 1_000_000_000  # bytes that a process holds beside weights and logits
_LOGITS = 5  # float32 copies of [N, V] that transformers holds at once: logits, softcap, tempered, softmax, its cast


@dataclass(frozen=True, kw_only=True)
class PeersRequest:
    """What to put side by side; raises UsageError when a value cannot be used.

    Args:
        peers: names as in `NAMES`, or what they begin with.
        llama: a folder with llama.cpp's programs.
        diffusion_model: a GGUF file for its DiffusionGemma program; dims are that file's.
        rounds: each peer's turns; `repeats` measurements in each.
        limit_s: of one process.
    """

    bundle: Path
    engine: str | None = None
    peers: tuple[str, ...] = ("transformers", "llama.cpp")
    llama: Path | None = None
    diffusion_model: Path | None = None
    threads: int = 1
    prefix: int = 512
    rounds: int = 3
    repeats: int = 3
    limit_s: float = 1800.0

    def __post_init__(self) -> None:
        for option, most in (("threads", 1024), ("rounds", 100), ("repeats", 1000), ("prefix", 131_072), ("limit_s", 86_400)):
            if not 1 <= (value := getattr(self, option)) <= most:
                raise UsageError(f"--{option.removesuffix('_s')} {value} must be between 1 and {most:,}")
        for name in self.peers:
            if not any(self._begins(full, name) for full in NAMES):
                raise UsageError(f"--peers: unknown {name!r}; choose from transformers, llama.cpp, {', '.join(NAMES)}")
        if self.llama:
            llama.check_folder(self.llama)
        if self.diffusion_model and not self.diffusion_model.is_file():
            raise UsageError(f"--llama-diffusion-model {self.diffusion_model}: no such file")

    @staticmethod
    def _begins(full: str, name: str) -> bool:
        return f"{full}/".startswith(f"{name.rstrip('/')}/")

    def wants(self, name: str) -> bool:
        return any(self._begins(name, given) for given in self.peers)


def peers(request: PeersRequest, manifest: Manifest, engine: str, work: Path) -> list[Peer]:
    """The bundle first, then those that were asked for.

    Args:
        work: a folder for model files and compiled code that the caller removes.
    """
    found = [_ours(request, manifest, engine), *(_transformers(request, manifest, name, work) for name in TRANSFORMERS)]
    found += [_llama(request, manifest, kind, work) for kind in gguf.KINDS]
    found.append(_llama_diffusion(request))
    return [one for one in found if one.name == OURS or request.wants(one.name)]


def _ours(request: PeersRequest, manifest: Manifest, engine: str) -> Peer:
    command = peer.module("ours", request.bundle, engine, *_common(request))
    bits = manifest.quantization.get("bits_per_weight")
    return Peer(
        name=OURS,
        weights=f"{manifest.quantization.get('recipe', 'float32')}, {engine}",
        bits=bits and round(bits, 2),
        need=memory.need(manifest, engine).total,
        measure=partial(_child, request, command),
        note="a step has the sampler in it",
    )


def _transformers(request: PeersRequest, manifest: Manifest, name: str, work: Path) -> Peer:
    _, how, dtype = name.split("/")
    model, compiled = manifest.model, how == "compiled"
    command = peer.module("transformers_step", request.bundle, "--dtype", dtype, *_common(request))
    extra = {COMPILED: str(work / f"compiled-{dtype}"), "TORCHINDUCTOR_COMPILE_THREADS": str(request.threads)}
    beside = 4 * _LOGITS * manifest.canvas_length * model.vocab_size + (1 + compiled) * _LIBRARIES

    def need(layers: int) -> int:
        return parameter_count(first_layers(model, layers)) * DTYPES[dtype] + beside

    fitting = _fitting(need, model.num_layers)
    if fitting < model.num_layers:
        command += ["--layers", str(fitting)]
    absent = [package for package in ("torch", "transformers") if util.find_spec(package) is None]
    return Peer(
        name=name,
        weights=dtype,
        bits=8.0 * DTYPES[dtype],
        need=need(fitting),
        measure=partial(_child, request, [*command, "--compiled"] if compiled else command, extra),
        missing=f"{absent[0]} is not installed; pip install 'transformers==5.23.*' torch" if absent else None,
        note="no sampler"
        + ("; tokens are not compiled" if compiled else "")
        + (f"; measured with {fitting} of {model.num_layers} layers and scaled" if fitting < model.num_layers else ""),
    )


def _fitting(need: Callable[[int], int], layers: int) -> int:
    """As many layers as fit into nine tenths of the free memory; two at least, which are then found not to fit."""
    free = available()
    if free is None or need(layers) <= free:
        return layers
    return max((n for n in range(2, layers) if need(n) <= 0.9 * free), default=2)


def _llama(request: PeersRequest, manifest: Manifest, kind: str, work: Path) -> Peer:
    model, canvas = manifest.model, manifest.canvas_length
    program, size, missing = request.llama and llama.find(request.llama, llama.BENCH), 0, None
    if request.llama and not program:
        missing = f"no {llama.BENCH} in the folder of --llama"
    elif not request.llama and not llama_binding.installed():
        missing = "llama-cpp-python is not installed and no --llama FOLDER was given; do one of them"
    elif not gguf.installed():
        missing = "gguf, which writes its model file, is not installed; pip install 'gguf==0.19.*'"
    try:
        size = gguf.file_bytes(model, gguf.KINDS[kind])
        if (free := shutil.disk_usage(work).free) < size + _LIBRARIES // 10:
            missing = f"its model file takes {size / 1e9:.1f} GB and {free / 1e9:.1f} GB of {work.parent} is free; set TMPDIR"
    except UsageError as error:
        missing = str(error)

    def measure() -> Sample:
        file = work / f"{kind}.gguf"
        if not file.exists():
            gguf.write(file, model, gguf.KINDS[kind], request.prefix + 2 * canvas)
        shape = {"canvas": canvas, "prefix": request.prefix, "repeats": request.repeats, "threads": request.threads}
        if program:
            return llama.bench(program, file, **shape, limit_s=request.limit_s)
        words = ["--vocabulary", str(model.vocab_size), "--canvas", str(canvas), *_common(request)]
        return _child(request, peer.module("llama_binding", file, *words))

    return Peer(
        name=f"llama.cpp/{kind}",
        weights=gguf.KINDS[kind].name,
        bits=gguf.KINDS[kind].bits,
        need=size + _LIBRARIES // 2,
        measure=measure,
        missing=missing,
        note=f"no steps; prefill of {canvas} tokens, logits of one",
    )


def _llama_diffusion(request: PeersRequest) -> Peer:
    program, file, missing = request.llama and llama.find(request.llama, llama.DIFFUSION), request.diffusion_model, None
    if not program:
        missing = f"no {llama.DIFFUSION} was given; --llama FOLDER of a build of the DiffusionGemma branch"
    elif not file:
        missing = "no model file for it; --llama-diffusion-model FILE.gguf"

    def measure() -> Sample:
        assert program and file
        return llama.diffusion(program, file, prefix=request.prefix, threads=request.threads, limit_s=request.limit_s)

    return Peer(
        name=LLAMA_DIFFUSION,
        weights=file.stem if file else "",
        bits=None,
        missing=missing,
        measure=measure,
        need=(file.stat().st_size if file else 0) + _LIBRARIES,
        note="dims are the given file's; a step has a share of the prompt in it",
    )


def _common(request: PeersRequest) -> list[str]:
    return ["--prefix", str(request.prefix), "--repeats", str(request.repeats), "--threads", str(request.threads)]


def _child(request: PeersRequest, command: list[str], extra: dict[str, str] | None = None) -> Sample:
    return Sample.from_output(peer.call(command, request.threads, request.limit_s, extra)[0])
