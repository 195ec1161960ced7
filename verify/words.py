"""The figures as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgemma.verify.gate import Check
from dgemma.verify.prompts import COUNT


def describe(name: str, section: str, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Figures and verdict of every engine; the verdict is last, and says which figures missed."""
    lines: list[str] = []
    for engine, values in found.items():
        lines += _golden(engine, values) if section == "golden" else _float(engine, values)
        lines += verdict_lines(name, engine, values)
    return lines


def verdict_lines(name: str, engine: str, values: Mapping[str, Any]) -> list[str]:
    """One line for a pass; for a miss one for each figure that missed, with its limit."""
    checks = [Check(**{k: c[k] for k in ("name", "value", "limit")}) for c in values["checks"]]
    if values["passed"]:
        return [f"PASSED  {name} on {engine}: " + ", ".join(map(str, checks))]
    return [f"MISSED  {name} on {engine}: {check}" for check in checks if not check.passed]


def number(value: float | None, form: str = ".3g") -> str:
    return "not known" if value is None else format(value, form)


def _golden(engine: str, values: Mapping[str, Any]) -> list[str]:
    lines = [f"{engine}: {values['equal']} of {values['trajectories']} golden trajectories equal, {values['steps']} steps"]
    for d in values["differences"]:
        place = f"canvas {d['canvas']} step {d['step']} position {d['position']}"
        kind = {True: "near-tie", False: "no near-tie", None: "not known whether a near-tie"}[d["near_tie"]]
        lines.append(f"  run {d['run']}: {d['rule']} at {place}, margin {number(d['margin'], '.2e')}, {kind}")
    return lines


def _float(engine: str, values: Mapping[str, Any]) -> list[str]:
    free, forced, checkpoint = values["free"], values["teacher"], values["checkpoint"]
    lines = [f"{engine}, recipe {values['recipe']}, against float {checkpoint['name']} in torch, {free['prompts']} prompts"]
    if values["forced"]:
        lines.append(f"  {checkpoint['name']} is NOT the checkpoint that this bundle was made from (--force)")
    if values["prompts"]["file"] and values["prompts"]["count"] < COUNT:
        lines.append(f"  a quick look: the limits are meant for {COUNT} prompts")
    if free["left_out"]:
        lines.append(f"  {free['left_out']} prompts were left out: they leave no room for a canvas")
    lines += ["free-running", *_free(free), "teacher-forced", *_forced(forced)]
    return lines


def _free(free: Mapping[str, Any]) -> list[str]:
    n, inflation = free["prompts"], free["step_inflation"]
    lines = [
        f"  trajectories equal  {free['equal_trajectories']} of {n}; same answer {free['same_tokens']} of {n}",
        f"  step inflation      {inflation['value']:.4f}  (95 %: {inflation['low']:.4f} … {inflation['high']:.4f}; "
        f"{free['steps']['artifact']} steps, float {free['steps']['float']})",
    ]
    for name, exact in (free["exact_match"] or {}).items():
        lines.append(
            f"  exact match         {exact['value']:6.1%}  (95 %: {exact['low']:.1%} … {exact['high']:.1%}) {name}, "
            f"{exact['mean_steps']:.2f} steps"
        )
    if loss := free["exact_match_loss"]:
        low, high = 100 * loss["low"], 100 * loss["high"]
        lines.append(f"  below float         {100 * loss['value']:+.2f} points (95 %: {low:+.2f} … {high:+.2f})")
    else:
        lines.append("  exact match         no answers to match")
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
    soft = f"next soft {number(db['next_soft'], '.1f')} (worst step {number(db['next_soft_worst_step'], '.1f')})"
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
    ]


def _ties(counts: Mapping[str, Any]) -> str:
    """Near-ties, decisions that were open all the same, and those that were not: the damage."""
    near, close = counts["near_ties"], counts["close"]
    return f"{near} near-ties, {close - near} close, {counts['count'] - close} beyond"


def _spread(values: Mapping[str, float | None]) -> str:
    return f"mean {number(values['mean'])}, 99 % {number(values['p99'])}, max {number(values['max'])}"
