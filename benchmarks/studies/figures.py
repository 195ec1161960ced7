"""The key figures, as one table for the README and for the results' first page."""

from __future__ import annotations

from dgemma.benchmarks.studies.tables import Json, header, read

GIGA = 1e9


def table(folder: str) -> str:
    """Question, figure, and the page that has the details; `folder` leads to those pages."""
    rows = [
        ("`make demo` in a fresh clone, 2 cores: time to the first text / in total", _demo(), "two-commands"),
        ("`tiny`: exact match on tasks that it can do, diffusion / autoregressive", _quality(), "quality"),
        ("`tiny`, `w8`, ONNX: tokens/s of diffusion relative to autoregressive, long / short answers", _speed(), "speed"),
        ("`tiny`: effect of 4-bit MLPs (`w4-mixed`) on exact match / steps", _quantization(), "quantization"),
        ("`tiny`, float32: canvases equal to the JAX reference, ONNX Runtime / ExecuTorch", _same(), "same-tokens"),
        (
            "`2b` shape, `w4-mixed`, ExecuTorch, 2 cores: time of a step of 256 positions / resident memory",
            _step("2b"),
            "full-size",
        ),
        (
            "`26b-a4b` shape, `w4-mixed`, ExecuTorch, 2 cores: time of a step / resident memory",
            _step("26b-a4b"),
            "released-shape",
        ),
        ("`2b` shape: step time of transformers (float32 / bfloat16) relative to dgemma's", _peers(), "peers"),
        (
            "`2b` / `26b-a4b` shape: autoregressive tokens/s relative to llama.cpp's at 4 bits",
            f"{_llama('2b')} / {_llama('26b-a4b')}",
            "peers",
        ),
    ]
    return "\n".join([*header("what", "figure", "page"), *(f"| {q} | {f} | [{p}]({folder}{p}.md) |" for q, f, p in rows)])


def _demo() -> str:
    demo = read("two-commands.json")["demo"]
    return f"{demo['first_text_s']:.0f} s / {demo['total_s']:.0f} s"


def _quality() -> str:
    solved = read("tiny-evaluate.json")["pooled"]["solved tasks"]
    return " / ".join(f"{100 * solved[decoder]['exact']:.1f} %" for decoder in ("diffusion", "autoregressive"))


def _speed() -> str:
    groups = read("bench-tiny-w8-onnx.json")["groups"]
    return " / ".join(f"{groups[name]['ratio']['median']:.1f} ×" for name in ("fills a canvas", "short"))


def _quantization() -> str:
    free = read("tiny-verify-w4-mixed.json")["float"]["onnx"]["free_running"]
    points = 0.0 - 100 * free["exact_match_loss"]["value"]
    return f"{points:+.1f} points / {100 * (free['step_inflation']['value'] - 1):+.1f} %"


def _same() -> str:
    values = read("tiny-same-tokens.json")
    backends = ("onnx/host", "executorch/host")
    return " / ".join(f"{values['equal_canvases'][backend]} of {values['canvases'][backend]}" for backend in backends)


def _step(shape: str) -> str:
    run = read(f"bench-{shape}-w4-mixed-executorch.json")
    resident = sum(run["memory"]["running"].values()) / GIGA
    return f"{run['growth'][0]['step_ms']['median'] / 1e3:.1f} s / {resident:.1f} GB"


def _runs(shape: str) -> dict[str, Json]:
    return {run["peer"]: run for run in read(f"peers-{shape}-w4-mixed.json")["runs"]}


def _peers() -> str:
    names, runs = ("transformers/eager/float32", "transformers/eager/bfloat16"), _runs("2b")
    return " / ".join(f"{runs[name]['step_over_ours']['median']:.1f} ×" for name in names)


def _llama(shape: str) -> str:
    runs = _runs(shape)
    return f"{runs['dgemma']['tokens_per_s']['median'] / runs['llama.cpp/q4_0']['tokens_per_s']['median']:.1f} ×"
