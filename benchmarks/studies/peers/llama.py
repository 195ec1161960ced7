"""llama.cpp's programs as peers: `llama-bench`, the Python binding, and the command line of its DiffusionGemma branch.

Stock llama.cpp has no denoising step. What comes nearest is a causal pass over as many tokens as a canvas has, after the same
prefix: the same products in the layers, but logits of one position and neither sampler nor self-conditioning. The diffusion
program (pull request 24423) takes a model file of the user's; a step's time there includes the prompt's share.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dgemma.benchmarks.studies.peers import peer
from dgemma.benchmarks.studies.peers.peer import Sample
from dgemma.core.errors import EngineError, UsageError

BENCH, DIFFUSION = "llama-bench", "llama-diffusion-cli"
GENERATED = 64  # tokens of one repetition, as llama-bench is mostly run
DIFFUSION_STEPS = 8
_FOLDERS = (".", "bin", "build/bin")
# As the source prints it: "total time: %.2fms, time per step: %.2fms (%d steps over %d blocks, entropy-bound)".
_SUMMARY = re.compile(r"total time: ([\d.]+)ms, time per step: ([\d.]+)ms \((\d+) steps over (\d+) blocks, entropy-bound\)")


def find(folder: Path, program: str) -> Path | None:
    """A program in a folder of llama.cpp's, in its `bin` or in its `build/bin`."""
    for place in _FOLDERS:
        for name in (program, f"{program}.exe"):
            if (found := folder / place / name).is_file():
                return found.absolute()
    return None


def check_folder(folder: Path) -> None:
    """Raise UsageError for a folder without any program that runs here."""
    if not find(folder, BENCH) and not find(folder, DIFFUSION):
        raise UsageError(f"--llama {folder}: neither {BENCH} nor {DIFFUSION} is there or in build/bin; give their folder")


def bench(program: Path, model: Path, *, canvas: int, prefix: int, repeats: int, threads: int, limit_s: float) -> Sample:
    """Tokens and a prefill of `canvas` tokens after `prefix`, by llama-bench, which warms up by itself."""
    command = [program, "-m", model, "-p", canvas, "-n", GENERATED, "-d", prefix, "-r", repeats, "-t", threads, "-ngl", 0]
    out, _ = peer.call([str(word) for word in (*command, "-o", "json")], threads, limit_s)
    return parse_bench(out)


def parse_bench(text: str) -> Sample:
    """From llama-bench's JSON: a list of tests, each with nanoseconds of its repetitions. Raises EngineError."""
    try:
        tests: list[dict[str, Any]] = json.loads(text)
        (prompt,) = (test for test in tests if test["n_prompt"] and not test["n_gen"])
        (generated,) = (test for test in tests if test["n_gen"] and not test["n_prompt"])
        return Sample(
            version=f"{prompt['build_number']} ({prompt['build_commit']})",
            token_s=[nanoseconds / 1e9 / generated["n_gen"] for nanoseconds in generated["samples_ns"]],
            prefill_s=[nanoseconds / 1e9 for nanoseconds in prompt["samples_ns"]],
        )
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise EngineError(f"{BENCH} printed JSON in another form than that of 2026; take a build of that year") from None


def diffusion(program: Path, model: Path, *, prefix: int, threads: int, limit_s: float) -> Sample:
    """Steps of one canvas after a prompt of about `prefix` tokens; the program reports their mean alone."""
    command = [program, "-m", model, "-p", " ".join(["word"] * prefix), "-n", 1, "-t", threads, "-ngl", 0]
    command += ["--diffusion-eb-max-steps", DIFFUSION_STEPS]
    return parse_diffusion("\n".join(peer.call([str(word) for word in command], threads, limit_s)))


def parse_diffusion(text: str) -> Sample:
    """From the summary line of the diffusion program. Raises EngineError."""
    found = _SUMMARY.search(text)
    if not found:
        raise EngineError(f"{DIFFUSION} printed no 'time per step'; take the build of llama.cpp's DiffusionGemma branch")
    return Sample(version="not told", step_s=[float(found[2]) / 1e3])
