"""The figures as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgemma.core.plural import counted
from dgemma.verify.against_float import COUNT
from dgemma.verify.gate import Check
from dgemma.verify.routing import described


def describe(name: str, section: str, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Figures of every engine or backend, and whether they passed; that line is last, and says which figures missed."""
    if section == "ladder":
        return [*_ladder(found), *ladder_outcome(name, found)]
    lines: list[str] = []
    for engine, values in found.items():
        lines += [*_float(engine, values), *outcome_lines(name, engine, values)]
    return lines


def outcome_lines(name: str, engine: str, values: Mapping[str, Any]) -> list[str]:
    """One line for a pass; for a miss one for each figure that missed, with its limit."""
    checks = _checks(values)
    if values["passed"]:
        return [f"PASSED  {name} on {engine}: " + ", ".join(map(str, checks))]
    return [f"MISSED  {name} on {engine}: {check}" for check in checks if not check.passed]


def ladder_outcome(name: str, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for a ladder that holds; else for every backend that misses where, and by which figures."""
    if all(values["passed"] for values in found.values()):
        runs = next(iter(found.values()))["golden_runs"]
        compared = [values[key]["equal"] for values in found.values() for key in ("recorded", "fused") if key in values]
        same = ", all as recorded" if all(equal == runs for equal in compared) else ", as recorded except for near-ties"
        told = f"{counted(len(found), 'backend')}, {counted(runs, 'golden prompt')}{same if compared else ''}"
        return [f"PASSED  {name}: {told}: {', '.join(found)}"]
    lines = []
    for backend, values in found.items():
        if values["passed"]:
            continue
        against = f" against {values['against']}" if values["against"] else ""
        missed = ", ".join(str(c) for c in _checks(values) if not c.passed)
        if values["follows"]:
            lines.append(f"MISSED  {name}: {backend}{against}, as {values['follows']} does: {missed}")
            continue
        lines.append(f"MISSED  {name}: {backend}{against}: {missed}")
        if fault := values["fault"]:
            place = f"run {fault['run']} canvas {fault['canvas']} step {fault['step']}"
            lines.append(f"        {place}: {fault['text']}")
        lines += [f"        {line}" for line in _steered(values) if line.endswith("NOT ALLOWED")][:1]
    return lines


def _checks(values: Mapping[str, Any]) -> list[Check]:
    return [Check(**{k: c[k] for k in ("name", "value", "limit")}) for c in values["checks"]]


def number(value: float | None, form: str = ".3g") -> str:
    return "not known" if value is None else format(value, form)


LADDER_HEADER = (
    "backend", "compared with", "logits", "tensors", "entropy, nats", "same argmax", "mean KL, nats", "equal runs", "steps",
)  # fmt: skip
LADDER_NOTE = (
    "Logits (error relative to their range), tensors (relative error) and entropy: the largest error over all steps, in which",
    "both backends get the same input. Equal runs: golden prompts with the same trajectory when each backend generates alone;",
    "a near-tie may go the other way and change what follows, which is allowed.",
)


def ladder_rows(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row a backend and comparison: the largest errors, KL in nats, equal trajectories, steps run in all."""
    rows: list[tuple[str, ...]] = []
    for backend, values in found.items():
        steps = str(values["steps"])
        compared = [values[key] for key in ("nearest", "top") if key in values]
        if not compared:
            rows.append((backend, *("",) * 7, steps))
        for i, figures in enumerate(compared):
            checks = {c["name"]: c["value"] for c in figures["checks"]}
            names = ("logits, error of range", "tensors, relative error", "entropy error, nats")
            kl = figures["teacher_forced"]["kl"]
            rows.append(
                (
                    backend if i == 0 else "",
                    figures["name"],
                    *(_short(checks.get(name)) for name in names),
                    _percent(figures["teacher_forced"]["same_argmax"]),
                    _short(kl and kl["mean"]),
                    f"{figures['generations_equal']} of {values['golden_runs']}",
                    steps if i == 0 else "",
                )
            )
    return rows


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _ladder(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    table = [LADDER_HEADER, *ladder_rows(found)]
    widths = [max(len(row[i]) for row in table) for i in range(len(LADDER_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += LADDER_NOTE if any("nearest" in values for values in found.values()) else ()
    missing = next(iter(found.values()))["backends_missing"]
    lines += [f"not run: {backend} ({why})" for backend, why in missing.items()]
    for backend, values in found.items():
        if (nearest := values.get("nearest")) and "experts" in nearest["teacher_forced"]:
            lines.append(f"{backend}: other experts than {nearest['name']}: {described(nearest['teacher_forced']['experts'])}")
        for key, label in (
            ("recorded", "equal to those recorded at export"),
            ("fused", "of the fused graph equal to the host loop's"),
        ):
            if key in values:
                lines.append(f"{backend}: {values[key]['equal']} of {values['golden_runs']} golden trajectories {label}")
                lines += [f"  {_difference(one)}" for one in values[key]["differences"]]
    for backend, values in found.items():
        if drawn := values.get("options"):
            lines += [f"{backend}: {line}" for line in _steered_counts(drawn)]
            lines += [f"  {line}" for line in _steered(values)]
    return lines


def _steered_counts(drawn: Mapping[str, Any]) -> list[str]:
    """How many generations with options drawn at random are equal, and to what."""
    if drawn["against"] is None:
        lines = [f"{counted(drawn['drawn'], 'generation')} with options; the options change {drawn['changed']} of them"]
    else:
        lines = [f"{drawn['equal']} of {counted(drawn['drawn'], 'generation')} with options equal to {drawn['against']}'s"]
    if fused := drawn.get("fused"):
        lines.append(f"{fused['equal']} of {counted(fused['drawn'], 'fused generation')} with options equal to the host loop's")
    return lines


def _steered(values: Mapping[str, Any]) -> list[str]:
    """Differences of generations with options."""
    drawn = values.get("options", {})
    found = [*drawn.get("differences", ()), *drawn.get("fused", {}).get("differences", ())]
    return [_difference(one) for one in found]


def _difference(one: Mapping[str, Any]) -> str:
    """Where two generations of one golden prompt part, by what margin, and whether that may be."""
    at = "" if one["position"] is None else f", position {one['position']}"
    name = f"{one['options']} (draw {one['run'] + 1})" if "options" in one else f"prompt {one['run'] + 1}"
    where = f"{name} differs from step {one['row'] + 1} on (canvas {one['canvas'] + 1}{at}): {_RULES[one['rule']]}"
    if one["allowed"] is None and "options" in one and one["limit"] is None:
        return f"{where}; not judged, because the weights differ"
    if one["margin"] is None:
        return f"{where}, by a margin that is not known: NOT ALLOWED"
    margin = f"{where}, by a margin of {one['margin']:.2g}"
    if one["allowed"]:
        return f"{margin}: a near-tie, which is allowed up to {one['limit']:.2g}"
    return f"{margin}, more than the {one['limit']:.2g} of a near-tie: NOT ALLOWED"


_RULES = {
    "argmax": "another likeliest token",
    "accept": "other positions accepted",
    "sample": "another token drawn",
    "stop": "the canvas ends at another step",
    "host": "a difference that rounding does not explain",
}


def _float(engine: str, values: Mapping[str, Any]) -> list[str]:
    free, forced, checkpoint = values["free_running"], values["teacher_forced"], values["checkpoint"]
    against = f"float {checkpoint['name']} in {values['reference']}"
    lines = [f"{engine}, recipe {values['recipe']}, against {against}, {free['prompts']} prompts"]
    if values.get("other_checkpoint"):
        lines.append(f"  {checkpoint['name']} is NOT the checkpoint that this bundle was made from")
    if values["prompts"]["file"] and values["prompts"]["count"] < COUNT:
        lines.append(f"  a quick check: the limits are meant for {COUNT} prompts")
    if free["left_out"]:
        lines.append(f"  left out, because there is no room for a canvas: {counted(free['left_out'], 'prompt')}")
    lines += ["free-running", *_free(free), "teacher-forced", *_forced(forced)]
    return lines


def _free(free: Mapping[str, Any]) -> list[str]:
    n, inflation = free["prompts"], free["step_inflation"]
    lines = [
        f"  trajectories equal  {free['equal_trajectories']} of {n}; same answer {free['same_tokens']} of {n}",
        f"  step inflation      {inflation['value']:.4f}  (95 %: {inflation['low']:.4f} … {inflation['high']:.4f}; "
        f"{free['steps']['artifact']} steps, float {free['steps']['float']})",
    ]
    for key, exact in (free["exact_match"] or {}).items():
        name = "bundle" if key == "artifact" else key
        lines.append(
            f"  exact match         {exact['value']:6.1%}  (95 %: {exact['low']:.1%} … {exact['high']:.1%}) {name}, "
            f"{exact['mean_steps']:.2f} steps"
        )
    if loss := free["exact_match_loss"]:
        low, high = 100 * loss["low"], 100 * loss["high"]
        lines.append(f"  loss against float  {100 * loss['value']:+.2f} points (95 %: {low:+.2f} … {high:+.2f})")
        if not free["exact_match"]["float"]["right"]:
            lines.append("  exact match is not judged: the float model has no answer right; give --prompts that it can answer")
    else:
        lines.append("  exact match         not known: the prompts have no answers to match")
    differences = free["differences"]
    if differences["count"]:
        lines.append(f"  first differences   {differences['count']}: {_ties(differences)}")
    for rule, d in differences["by_rule"].items():
        margins = f"median margin {number(d['median_margin'])}, largest {number(d['largest_margin'])}"
        lines.append(f"    {rule:<7} {d['count']:>4}: {_ties(d)}, {margins}")
    return lines


def _forced(forced: Mapping[str, Any]) -> list[str]:
    flips, db = forced["flips"], forced["sqnr_db"]
    kl = f"not known: {forced['kl_missing']}" if forced["kl"] is None else _spread(forced["kl"])
    soft = f"soft embedding {number(db['next_soft'], '.1f')} (worst step {number(db['next_soft_worst_step'], '.1f')})"
    damage = f": {_ties(flips)}, largest margin {number(flips['largest_margin'])}" if flips["count"] else ""
    return [
        f"  steps               {forced['steps']}",
        f"  same argmax         {number(forced['same_argmax'], '.3%')}; {flips['count']} flips{damage}",
        f"  accepted, Jaccard   {number(forced['jaccard'], '.4f')}",
        f"  KL, nats            {kl}",
        f"  entropy error, nats {_spread(forced['entropy_error'])}",
        f"  SQNR, dB            {soft}, prefix keys {number(db['prefix_keys'], '.1f')}, "
        f"values {number(db['prefix_values'], '.1f')}, "
        f"worst layer {number(db['prefix_worst_layer'], '.1f')}",
        *([f"  other experts       {described(forced['experts'])}"] if "experts" in forced else []),
    ]


def _ties(counts: Mapping[str, Any]) -> str:
    """Near-ties, decisions that were open all the same, and those that were not: the damage."""
    near, close = counts["near_ties"], counts["close"]
    return f"{near} near-ties, {close - near} other close decisions, {counts['count'] - close} clear decisions"


def _spread(values: Mapping[str, float | None]) -> str:
    return f"mean {number(values['mean'])}, 99 % {number(values['p99'])}, max {number(values['max'])}"
