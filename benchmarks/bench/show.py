"""A result for people: the cost model as it is known, tables at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.bench.ceilings import PRODUCTS, Ceilings
from dgemma.benchmarks.bench.compare import TOLERANCE
from dgemma.benchmarks.bench.pairs import DECODERS
from dgemma.core.cost import Cost

Json = dict[str, Any]
NOT_KNOWN = "not known"


def cost_model(calls: Mapping[str, Cost], top: Ceilings, canvas: int, prefix: int, chunk: int, path: str) -> Iterator[str]:
    """Lines: what each call costs, what the machine can do, and the floor that follows."""
    yield f"Cost model: canvas {canvas}, prefix {prefix}, chunk {chunk}; without norms, softmax and sampler"
    for name, cost in sorted(calls.items()):
        at = f"prefix {0 if name == 'encode' else prefix}"
        classes = ", ".join(f"{c} {p.bits}" for c, p in cost.products.items())
        yield (
            f"  {name} ({at}): {_si(cost.operations)}OP, {_si(cost.weight_bytes)}B of weights, {_si(cost.cache_bytes)}B of "
            f"keys and values; machine floor {1e3 * top.floor_s(cost):.3f} ms, kernel floor {_ms(top.kernel_floor_s(cost))}; "
            f"bits: {classes}"
        )
    read = f"memory read {top.bytes_per_s / 1e9:.1f} GB/s ({_si(top.read_bytes)}B)"
    yield f"Ceilings: {_rates(top.products)}, {read}; int8 instructions: {path}"
    yield from _missing(top.missing)
    yield f"Kernels that this bundle runs: {_rates(top.kernels) or NOT_KNOWN}"
    yield from _missing(top.missing_kernels)
    step, token = (top.floor_s(calls[name]) for name in ("denoise", "decode"))
    yield "A floor is the least time that a call can take: the machine floor at the ceilings above, the kernel floor at the"
    yield "rates of the engine's own kernels. Times are also given divided by their floors; 1 would be the best possible."
    yield f"At the machine floor, a step has to commit {step / token:.1f} tokens to be as fast as autoregressive decoding"


def _rates(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rates[name] / 1e9:.0f} GFLOP/s" for name in PRODUCTS if name in rates)


def _missing(reasons: Mapping[str, str]) -> Iterator[str]:
    for name, why in reasons.items():
        yield f"  {name}: not measured, {why}"


def _ms(seconds: float | None) -> str:
    return NOT_KNOWN if seconds is None else f"{1e3 * seconds:.3f} ms"


def _times(ratio: float | None) -> str:
    return NOT_KNOWN if ratio is None else f"{ratio:.2f}"


def _si(value: float) -> str:
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:.0f} "


def _q(values: Json, digits: int = 2) -> str:
    return f"{values['median']:.{digits}f} [{values['q1']:.{digits}f} … {values['q3']:.{digits}f}]"


def _mb(value: int | None) -> str:
    return NOT_KNOWN if value is None else f"{value / 1e6:.1f}"


def result(values: Json) -> None:
    """Print all tables."""
    _load(values)
    _memory(values["memory"])
    _growth(values)
    _outputs(values)
    if values["groups"]:
        _groups(values["groups"])
    elif not values["of"]["real_weights"]:
        print("\nRandom weights do not converge, so all steps ran: the figures above show cost, not speed.")
    else:
        print("\nThere are no prompts for this bundle, so all steps ran: the figures above show cost, not speed.")
    if "comparison" in values:
        comparison(values["comparison"]["rows"])
        if (doubt := values["noise"]["doubt"]) > TOLERANCE:
            print(f"other programs may have changed time ratios by {doubt:.0%}, which is allowed; on an idle machine, less is")
    for warning in values["noise"]["warnings"]:
        print(f"noise: {warning}")


def _load(values: Json) -> None:
    load, rows = values["load"], []
    names = {"check_s": "check all files", "graphs_s": "load graphs", "load_s": "both", "process_s": "since process start"}
    for name, label in names.items():
        cold = f"{load['cold'][name]:.3f}" if load["cold"] else NOT_KNOWN
        rows.append([label, cold, _q(load["warm"][name], 3)])
    report.table("Load time in a fresh process (graphs encode and denoise)", ["", "cold, s", "warm, s [quartiles]"], rows)
    print(f"cold: {load['cold_means']}; packed weights: {load['packed_weights']}")
    hashed = [load["cold"] and load["cold"]["hashed_bytes"], load["warm_hashed_bytes"], load["file_bytes"]]
    cold, warm, total = map(_mb, hashed)
    print(f"hashed: {cold} of {total} MB cold, {warm} MB warm; files that have a recorded hash and are unchanged are skipped")


def _memory(memory: Json) -> None:
    stages = [("before loading", "process"), ("graphs loaded", "loaded"), ("after a step", "running")]
    rows = [[label, *(_mb(memory.get(key) and memory[key][kind]) for kind in ("anonymous", "file"))] for label, key in stages]
    report.table("Resident memory, MB", ["", "anonymous", "file-backed"], rows)
    resident = f"{memory['resident_over_weights']:.2f}" if memory["resident_over_weights"] else NOT_KNOWN
    print(
        f"weights as packed for the kernels: {_mb(memory['weight_bytes'])} MB; keys and values of the prefix: "
        f"{_mb(memory['prefix_bytes'])} MB; additional memory during a step: {_mb(memory['transient_bytes'])} MB"
    )
    print(f"resident after a step, less the process before loading: {resident} times the packed weights")


def _growth(values: Json) -> None:
    rows = []
    for p in values["growth"]:
        encode = f"{p['encode_ms'] / p['encoded']:.3f}" if p["encoded"] else "-"
        step, token = (
            [_q(p[f"{name}_ms"]), *(_times(p[f"{name}_over_{floor}"]) for floor in ("floor", "kernel_floor"))]
            for name in ("step", "token")
        )
        paced = NOT_KNOWN if p["step_over_pace"] is None else _q(p["step_over_pace"])
        rows.append([str(p["prefix"]), *step, paced, *token, encode, f"{p['canvas_tokens_over_step']:.1f}"])
    floors = ["/ machine floor", "/ kernel floor"]
    header = ["prefix", "step, ms", *floors, "/ current floor", "token, ms", *floors, "encode, ms/token", "N tokens / step"]
    report.table("A denoising step and an autoregressive token as the prefix grows, median [quartiles]", header, rows)
    print("/ current floor: a step divided by its kernel floor at the rates measured just before and after the step")
    print("N tokens / step: the time of a canvas of autoregressive tokens, divided by that of a step; if a canvas takes more")
    print("steps than this, diffusion is slower than autoregressive decoding")
    prefill = values["prefill"]
    print(
        f"prefill: {prefill['tokens']} tokens in {_q(prefill['ms'])} ms, {prefill['tokens_per_s']:.0f} tokens/s, "
        f"{prefill['over_floor']:.2f} × its machine floor, {_times(prefill['over_kernel_floor'])} × its kernel floor"
    )
    first = values["first_canvas"]
    starts = [f"{first[key]:.2f}" if first[key] else NOT_KNOWN for key in ("warm_start_s", "cold_start_s")]
    print(f"first canvas: {first['loaded_s']:.3f} s once loaded; {starts[0]} s warm or {starts[1]} s cold since process start")


def _outputs(values: Json) -> None:
    rows = [
        [
            str(o["tokens"]),
            str(o["canvases"]),
            f"{o['diffusion_s']:.3f}",
            f"{o['diffusion_tokens_per_s']:.1f}",
            f"{o['autoregressive_s']:.3f}",
            f"{o['autoregressive_tokens_per_s']:.1f}",
            f"{o['ratio']:.2f}",
        ]
        for o in values["outputs"]
    ]
    header = ["tokens", "canvases", "diffusion, s", "tokens/s", "autoregressive, s", "tokens/s", "times as fast"]
    steps = values["steps_per_canvas"]
    title = f"Outputs of several lengths, from the times above, at {steps['value']:.2f} steps per canvas ({steps['of']})"
    report.table(title, header, rows)
    for left in values["left_out"]:
        print(f"{left['tokens']} tokens left out: {left['why']}; export with a larger --context")


def _groups(groups: Json) -> None:
    rows = []
    for group, values in groups.items():
        for name in DECODERS:
            d = values[name]
            exact = "-" if d["exact"] is None else f"{d['exact']:.0%}"
            rows.append(
                [
                    f"{group}, {name}",
                    _q(d["tokens_per_s"], 0),
                    _q(d["step_ms"]),
                    f"{d['tokens_per_forward']:.1f}",
                    f"{d['steps_per_canvas']:.1f}",
                    f"{d['first_canvas_ms']['median']:.1f}",
                    f"{d['tokens']['median']:.0f}",
                    f"{d['engine_share']:.1%}",
                    exact,
                ]
            )
    header = ["answers, decoder", "tokens/s", "step, ms", "tokens/forward", "steps/canvas", "first canvas, ms"]
    header += ["tokens", "in engine", "exact match"]
    report.table("Real prompts, median [quartiles]; padding is not counted", header, rows)
    print("in engine: share of the time that the engine's calls take")
    for group, v in groups.items():
        print(
            f"{group}: diffusion is {_q(v['ratio'])} times as fast ({v['total_ratio']:.2f} over all tokens, "
            f"{v['decoding_ratio']['median']:.2f} without prefill; {v['pairs']} pairs)"
        )


def comparison(rows: list[Json]) -> None:
    """The table of `--compare`."""

    def cells(row: Json) -> list[str]:
        name = row["ratio"].replace("in turn with its products", "over its current floor")
        before, after = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("old", "new"))
        if "change" not in row:
            return [name, before, after, "-", "-", "only one has it"]
        verdict = "WORSE" if row["worse"] else "better" if row["change"] < 1 / (1 + row["tolerance"]) else "same"
        return [name, before, after, f"{row['change']:.2f}", f"{1 + row['tolerance']:.2f}", verdict]

    header = ["ratio", "old", "new", "change", "allowed", ""]
    report.table("Compared with the old result; a change above 1 is worse", header, map(cells, rows))
