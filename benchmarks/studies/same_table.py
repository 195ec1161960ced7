"""The tables of what gives the same tokens: engines, loops and backends, options, Java, and other processors."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import Json, header, read


def same_tokens() -> str:
    """Every backend against the reference in float32."""
    values = read("tiny-same-tokens.json")
    first = values["first"]
    rows = header(
        f"compared with {first}", "trajectories", "equal trajectories", "canvases", "equal canvases", "same answer", "steps",
        "largest entropy error, nats", "largest margin",
    )  # fmt: skip
    for backend, (compared, equal, same, _, _) in _compared(values):
        margins = [d["margin"] for d in values["differences"] if d["backend"] == backend]
        widest = f"{max(margins):.1e}" if margins and None not in margins else "–"
        rows.append(
            f"| {backend} | {compared} | {equal} | {values['canvases'][backend]} | {values['equal_canvases'][backend]} | "
            f"{same} | {values['steps'][backend]} | {values['entropy_error'][backend]:.0e} | {widest} |"
        )
    machine = values["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("jax", "torch", "onnxruntime", "executorch"))
    steps = f"{values['steps'][first]} steps of the reference"
    return "\n".join([*rows, "", f"{steps}; {machine['cpu']}; {versions}; {machine['date'][:10]}."])


def same_options() -> str:
    """Generations under random options, every backend against the one above it, and Java against Python."""
    values = read("tiny-same-options.json")
    rows = header("backend", "compared with", "generations", "equal", "near-ties", "other differences", "largest margin")

    def row(name: str, against: str, one: Json) -> str:
        differences = one["differences"]
        ties = sum(d["allowed"] is True for d in differences)
        widest = f"{max(d['margin'] for d in differences):.1e}" if ties and ties == len(differences) else "–"
        return f"| {name} | {against} | {one['drawn']} | {one['equal']} | {ties} | {len(differences) - ties} | {widest} |"

    for name, one in values["backends"].items():
        if one["against"] is None:
            rows.append(
                f"| {name} | its own without the options | {one['drawn']} | {one['drawn'] - one['changed']} | – | – | – |"
            )
        else:
            rows.append(row(name, one["against"], one))
        if "fused" in one:
            rows.append(row(f"{name}, fused loop", f"{name}, host loop", one["fused"]))
    java = read("tiny-java-options.json")
    assert java["drawn"] == values["drawn"], "other options"
    for side in ("python", "installed"):
        against = f"onnx, onnxruntime {java[f'onnxruntime_{side}']}"
        rows.append(row(f"java, onnxruntime {java['onnxruntime_java']}", against, java[f"java_against_{side}"]))
    drawn = ", ".join(f"`{name}` {count}" for name, count in values["drawn"].items())
    versions = ", ".join(f"{k} {values['machine']['versions'][k]}" for k in ("jax", "torch", "onnxruntime", "executorch"))
    return "\n".join([*rows, "", f"Options drawn: {drawn}. {versions}; {values['machine']['date'][:10]}."])


def same_tokens_quantized() -> str:
    """The other engine's host loop against the first one's, by recipe."""
    columns = ("trajectories", "equal trajectories", "canvases", "equal canvases", "same answer", "close calls", "unexplained")
    rows = header("recipe, backend", *columns)
    for recipe in ("w8", "w4-mixed"):
        values = read(f"tiny-same-tokens-{recipe}.json")
        for backend, (compared, equal, same, ties, others) in _compared(values):
            if backend == "executorch/host":
                canvases = f"{values['canvases'][backend]} | {values['equal_canvases'][backend]}"
                rows.append(f"| `{recipe}`, {backend} | {compared} | {equal} | {canvases} | {same} | {ties} | {others} |")
    return "\n".join(rows)


def _compared(values: Json) -> list[tuple[str, tuple[int, ...]]]:
    """Backend, and its trajectories: compared, equal, same answer, differences within the margins, and beyond."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for backend, compared in values["compared"].items():
        ties = [d["near_tie"] is True for d in values["differences"] if d["backend"] == backend]
        equal, same = values["equal"][backend], values["same_tokens"][backend]
        found.append((backend, (compared, equal, same, sum(ties), len(ties) - sum(ties))))
    return found


def java() -> str:
    """The Java runtime against the Python one, on one version of onnxruntime and on the installed one."""
    values = read("tiny-java.json")
    java, installed = (f"onnxruntime {values[f'onnxruntime_{which}']}" for which in ("java", "installed"))
    rows = header(
        "bundle", "trajectories", "canvases", f"equal to Python, {java}", "largest entropy error",
        f"equal to Python, {installed}", "Python, equal with both",
    )  # fmt: skip
    for one in values["bundles"]:
        same, other = one["java_against_python"], one["java_against_installed"]
        itself = one["python_against_installed"]
        name = one["bundle"].removesuffix(".dgemma")
        rows.append(
            f"| {name} | {one['generations']} | {same['canvases']} | {same['equal']} | {same['entropy_error']:.1g} | "
            f"{other['equal']} | {itself['equal']} |"
        )
    versions = f"{java} in Java, {installed} is the installed one"
    return "\n".join([*rows, "", f"{versions}; {values['machine']['cpu']}; {values['machine']['date'][:10]}."])


def arm64() -> str:
    """Canvases on emulated ARM64 against this machine's, by recipe, engine and processor."""
    columns = ("canvases", "same decisions", "same bits", "same answer", "largest entropy error, nats")
    rows = header("recipe, engine, processor", *columns)
    for one in read("tiny-arm64.json")["runs"]:
        rows.append(
            f"| `{one['bundle']}`, {one['engine']}, {one['cpu']} | {one['canvases']} | {one['same_decisions']} | "
            f"{one['bit_equal']} | {one['same_tokens']} of {one['prompts']} | {one['max_entropy_error']:.0e} |"
        )
    return "\n".join(rows)


PAGE = Page(
    title="Same tokens everywhere",
    intro="""
All randomness is generated from one seed, and the order of the sampler's sums is fixed. The same seed, prompt and bundle
therefore give the same trajectory on every engine, except where a decision is a floating-point near-tie. These tables count
how often that happens. *Same answer* counts trajectories that end in the same tokens, even if they differ on the way.

![Every backend of the ladder compared with the one above it](../../benchmarks/results/tiny-ladder.png)""",
    sections=(
        Section(
            heading="Float bundles",
            before="""
The entropy error is the largest of any position in a first step. The margin says how far from a tie a decision was that turned
out differently.""",
            table=same_tokens,
            after="""
In float32 every canvas is the same on both engines, with the host loop and the fused graph, in PyTorch and in the JAX
reference. bfloat16 is different arithmetic: some canvases diverge at a near-tie, but nearly all texts still end in the same
tokens.""",
        ),
        Section(
            heading="Under random options",
            before="""
Golden prompts with [options](../guides/control.md) drawn at random: each option alone, then two to four together. Every backend
is compared with the one above it in the [ladder](../how-it-works/ladder.md), decision by decision; Java is compared with the
Python runtime.""",
            table=same_options,
        ),
        Section(
            heading="Quantized bundles",
            before="""
ExecuTorch's host loop compared with ONNX Runtime's. Both engines multiply the same integers and round activations by the same
rule. They differ in the last bit of norms and exponentials, so a few of the half a million roundings in a step go the other
way. *Close calls* are differences within the margin of a near-tie; *unexplained* ones are beyond it.""",
            table=same_tokens_quantized,
            after="The goal of 98 % equal canvases was **missed**.",
        ),
        Section(
            heading="Java against Python",
            before="""
With the same version of ONNX Runtime, Java and Python give the same trajectories bit for bit. The last column compares Python
with itself on both versions.""",
            table=java,
        ),
        Section(
            heading="ARM64 (emulated) against x86-64",
            table=arm64,
            after="""
No canvas is equal in every bit, because exponentials differ and float sums are computed in a different order. In float32 all
decisions are the same; in quantized bundles, a few canvases diverge at a near-tie.""",
        ),
    ),
)
