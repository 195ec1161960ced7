"""How far a profile's predictions are from what `dgemma bench` measured, on results that it was not fitted to.

    python -m dgemma.benchmarks.studies.plan_check --fit BENCH.json … --test BENCH.json … [--checkpoint DIR] \
        [--write PROFILE.json]

Without --test, the results of --fit are compared, which says how well the model can follow, not how well it predicts.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from dgemma.benchmarks import report
from dgemma.benchmarks.plan import fit
from dgemma.core.errors import UsageError
from dgemma.model.hf_config import read_config

GOAL = 0.15


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.plan_check", description=__doc__)
    parser.add_argument("--fit", type=Path, nargs="+", required=True, metavar="BENCH.json")
    parser.add_argument("--test", type=Path, nargs="+", default=[], metavar="BENCH.json")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], help="shapes of results that do not tell theirs")
    parser.add_argument("--write", type=Path, metavar="PROFILE.json", help="the profile, for dgemma plan --device")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the comparison as JSON")
    options = parser.parse_args(argv)
    if both := set(options.fit) & set(options.test):
        raise UsageError(f"--test {sorted(both)[0]} is also under --fit; a test needs results that were not fitted to")
    report.check_out(options.out)
    known = [read_config(folder)[0] for folder in options.checkpoint]
    fitted = [fit.read_result(path, "--fit", known) for path in options.fit]
    tested = [fit.read_result(path, "--test", known) for path in options.test] or fitted
    profile = fit.fit(fitted)
    for engine, kernels in profile.engines.items():
        print(
            f"{engine}: {kernels.share_products:.0%} of products, {kernels.share_reading:.0%} of reading, "
            f"{kernels.functions_per_s / 1e9:.2f} G functions/s, {kernels.values_per_s / 1e9:.2f} G values/s, "
            f"{kernels.joined_bytes_per_s / 1e9:.1f} GB/s joined; a call {1e6 * kernels.call_s:.0f} µs, a layer "
            f"{1e6 * kernels.layer_s:.0f} µs, of integers {1e6 * kernels.integer_layer_s:.0f} µs more, "
            f"a sampler {1e6 * kernels.sampler_s:.0f} µs"
        )
    if lacking := sorted({r.engine for r in tested} - set(profile.engines)):
        raise UsageError(f"--test has results of {lacking[0]} and --fit has none; fit to one of that engine too")
    rows = fit.ratios(profile, tested)
    table = [
        [f"{r['run']} {r['figure']}", str(r["prefix"]), *(f"{r[k]:.3f}" for k in ("measured_ms", "predicted_ms", "ratio"))]
        for r in rows
    ]
    report.table("Predicted over measured", ["run and figure", "prefix", "ms", "predicted", "ratio"], table)
    for figure in dict.fromkeys(r["figure"] for r in rows):
        print(f"{figure}: {_summary([r['ratio'] for r in rows if r['figure'] == figure])}")
    off = [max(r["ratio"], 1 / r["ratio"]) - 1 for r in rows]
    within = sum(o <= GOAL for o in off)
    kind = "not used to fit" if options.test else "used to fit"
    print(f"all: {_summary([r['ratio'] for r in rows])}; {within} of {len(rows)} within {GOAL:.0%}, {kind}")
    if options.write:
        fit.write_profile(profile, options.write)
    if options.out:
        names = {"fit": [r.where for r in fitted], "test": [r.where for r in tested] if options.test else []}
        report.write_json(
            options.out, {"benchmark": "plan", **names, "rows": rows, "within": within, "profile": profile.to_dict()}
        )
    print(json.dumps({"rows": len(rows), "within": within, "worst": max(off), "median": statistics.median(off)}))
    return 0 if within == len(rows) else 1


def _summary(found: list[float]) -> str:
    off = [max(r, 1 / r) - 1 for r in found]
    return f"median off by {statistics.median(off):.1%}, worst {max(off):.1%}, ratios {min(found):.2f} … {max(found):.2f}"


if __name__ == "__main__":
    report.main(main)
