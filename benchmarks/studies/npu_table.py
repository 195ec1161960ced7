"""The table of the study of NPUs in the emulator, from its committed JSON."""

from __future__ import annotations

from dgemma.benchmarks.studies.tables import header, read


def npu() -> str:
    """A row a recipe: answers right, steps, trajectories, and the rules by which others part first."""
    values = read("tiny-npu-fp32.json")
    rows = header(
        "recipe", "chip", "prompts", "exact match, NPU / float", "steps, NPU / float", "trajectories equal", "same tokens"
    )
    match, steps = values["exact_match"], values["steps"]
    cells = (
        f"`{values['recipe']}` as {values['precision']}",
        values["target"],
        str(values["prompts"]),
        f"{match['npu']['value']:.1%} / {match['float']['value']:.1%}",
        f"{steps['npu']} / {steps['float']}",
        str(values["equal_trajectories"]),
        str(values["same_tokens"]),
    )
    rows.append(f"| {' | '.join(cells)} |")
    parted = ", ".join(f"{rule} {count}" for rule, count in values["parted_by"].items()) or "none"
    versions = ", ".join(f"{name} {version}" for name, version in values["versions"].items())
    low, high = (values["exact_match_loss"][end] for end in ("low", "high"))
    notes = (
        f"Exact match lost: between {low:+.1%} and {high:+.1%} (95 %). Rules by which other trajectories part first: {parted}."
    )
    asked = (
        f"Asked were {values['prompts']} of {values['wanted']} prompts, in {values['seconds'] / 60:.0f} minutes; {versions}."
    )
    return "\n".join([*rows, "", f"{notes} {asked}"])
