"""Record one generation of a bundle, for the Java engines' tests: every call of the engine, as an .npz.

    python android_demo/executorch-stubs/record.py BUNDLE ENGINE OUT.npz [--prompt TEXT] [--seed S] [--draft | --negative TEXT]

For a fake of ExecuTorch (`executorch`), results are stored whole and inputs as hashes; for comparison with a real engine
(`onnx`), the steps' canvases alone, of a prompt that the model is sure of: where it is not, another processor's rounding leads
to other tokens ("Write a letter to Felix from Ben: meeting, library, Wednesday, 9, blanket."; the Java engine's version of
onnxruntime, 1.29.0, on PYTHONPATH). Both hold what the host made: prompt, initial canvas, words and temperatures. `--draft`: a
canvas that starts narrow, and is checked by greedy decoding; `--negative`: two steps, guided away from what that prompt gives.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from dgemma import Session
from dgemma.runtime.engines.base import Engine, Feeds
from dgemma.runtime.loops import Loops


class Recorder:
    """Stands in front of an engine's `run`."""

    def __init__(self, engine: Engine, results: bool) -> None:
        self.engine, self.run, self.results = engine, engine.run, results
        self.arrays: dict[str, Any] = {}
        self.calls: list[str] = []

    def __call__(self, graph: str, feeds: Feeds) -> Feeds:
        out = self.run(graph, feeds)
        spec, number = self.engine.bundle.graph(self.engine.name, graph), len(self.calls)
        self.calls.append(graph)
        if self.results:
            hashes = [hashlib.sha256(np.ascontiguousarray(feeds[t.name]).tobytes()).digest() for t in spec.inputs]
            self.arrays[f"{number}.inputs"] = np.frombuffer(b"".join(hashes), np.uint8)
            for i, tensor in enumerate(spec.outputs):
                value = np.array(out[tensor.name])
                self.arrays[f"{number}.{i}"] = value
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("engine", choices=["onnx", "executorch"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--prompt", default="Write a short story about a dog.")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--negative")
    options = parser.parse_args()
    with Session.load(options.bundle, engine=options.engine) as session:
        engine = session._engine
        chosen: dict[str, Any] = {"start_width": "auto", "speculate": True} if options.draft else {}
        if options.negative:
            chosen = {"guidance": 2.0, "negative": options.negative, "max_steps": 2}
        graphs = ("denoise_active", "check") if options.draft else ("denoise_guided",) if options.negative else ("denoise",)
        engine.prepare("encode", *graphs)
        recorder = Recorder(engine, options.engine == "executorch")
        engine.run = recorder  # type: ignore[method-assign]
        n = session.manifest.canvas_length
        result = session.generate(options.prompt, seed=options.seed, max_new_tokens=n, trace=True, **chosen)
        assert result.trajectory is not None
        canvas, words = Loops(engine).noise(options.seed, 0)
        steps = len(result.trajectory.step)
        np.savez_compressed(
            options.out,
            allow_pickle=False,
            prompt=result.trajectory.prompt_ids,
            canvas=canvas,
            words=words,
            temperature=result.trajectory.temperature,
            argmax=result.trajectory.argmax,
            entropy=result.trajectory.entropy,
            accepted=result.trajectory.accepted,
            seed=np.array([options.seed]),
            canvas_out=result.trajectory.canvas_out,
            tokens=result.trajectory.tokens,
            **recorder.arrays,
        )
    print(f"{options.out}: {steps} steps, calls {' '.join(recorder.calls)}, {options.out.stat().st_size} bytes")
    print(result.text)


if __name__ == "__main__":
    main()
