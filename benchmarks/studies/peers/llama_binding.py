"""llama.cpp through its PyPI package `llama-cpp-python`, as a peer's process: tokens, and a prefill of a canvas's length.

    python -m dgemma.benchmarks.studies.peers.llama_binding MODEL.gguf --vocabulary 262144 --canvas 256 --prefix 512

The low-level interface is used, so that nothing but llama.cpp's own calls is timed.
"""

from __future__ import annotations

import argparse
import os
import time
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.bench.fresh_process import filler
from dgemma.benchmarks.studies.peers.llama import GENERATED
from dgemma.benchmarks.studies.peers.peer import Sample
from dgemma.core.errors import EngineError

PACKAGE, DISTRIBUTION = "llama_cpp", "llama-cpp-python"


def installed() -> bool:
    return util.find_spec(PACKAGE) is not None


class Context:
    """A model and its keys and values; positions go on from call to call."""

    def __init__(self, library: Any, model: Path, vocabulary: int, length: int, batch: int, threads: int) -> None:
        self._library, self._vocabulary = library, vocabulary
        library.llama_backend_init()
        given = library.llama_model_default_params()
        given.n_gpu_layers = 0
        self._model = library.llama_model_load_from_file(os.fsencode(model), given)
        if not self._model:
            raise EngineError(f"llama.cpp cannot load {model.name}; an older build does not know gemma4: pip install -U it")
        chosen = library.llama_context_default_params()
        chosen.n_ctx, chosen.n_batch, chosen.n_ubatch = length, batch, batch
        chosen.n_threads = chosen.n_threads_batch = threads
        self._context = library.llama_init_from_model(self._model, chosen)
        if not self._context:
            raise EngineError(f"llama.cpp made no context of {length} tokens for {model.name}; give a smaller --prefix")
        self._memory = library.llama_get_memory(self._context)

    def decode(self, count: int) -> float:
        """Seconds of one pass over `count` further tokens."""
        ids = (self._library.llama_token * count)(*filler(self._vocabulary, count))
        started = time.perf_counter()
        status = self._library.llama_decode(self._context, self._library.llama_batch_get_one(ids, count))
        self._library.llama_synchronize(self._context)
        if status:
            raise EngineError(f"llama.cpp's llama_decode of {count} tokens gave {status}; give a smaller --prefix")
        return time.perf_counter() - started

    def truncate(self, length: int) -> None:
        self._library.llama_memory_seq_rm(self._memory, 0, length, -1)


def measure(model: Path, vocabulary: int, *, canvas: int, prefix: int, repeats: int, threads: int) -> Sample:
    """Every repetition starts after the prefix; the first of all warms up and is left out."""
    batch = max(canvas, 1)
    context = Context(import_module(PACKAGE), model, vocabulary, prefix + max(canvas, GENERATED) + 1, batch, threads)
    for start in range(0, prefix, batch):
        context.decode(min(batch, prefix - start))
    prefills, tokens = [], []
    for _ in range(repeats + 1):
        prefills.append(context.decode(canvas))
        context.truncate(prefix)
        tokens.append(sum(context.decode(1) for _ in range(GENERATED)) / GENERATED)
        context.truncate(prefix)
    return Sample(version=f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}", token_s=tokens[1:], prefill_s=prefills[1:])


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--vocabulary", type=int, required=True, help="number of tokens that the model has")
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--prefix", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    sample = measure(
        given.model, given.vocabulary, canvas=given.canvas, prefix=given.prefix, repeats=given.repeats, threads=given.threads
    )
    print(sample.to_line())
    return 0


if __name__ == "__main__":
    report.main(main)
