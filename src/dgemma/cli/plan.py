"""`dgemma plan`: what a model will cost on a device, by recipe and engine, and where diffusion becomes faster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgemma.cli.bench import lengths
from dgemma.cli.groups import grouped
from dgemma.cli.terminal import print_json
from dgemma.core.config import ModelConfig
from dgemma.core.engines import ENGINES, engines_of
from dgemma.core.errors import UsageError
from dgemma.core.sampler import EXACT, MOST_K, MOST_STEPS, SamplerConfig
from dgemma.core.shapes import parameter_count
from dgemma.core.shipped import bundle_path

if TYPE_CHECKING:
    from dgemma.benchmarks.plan.predict import Weights, Work
    from dgemma.benchmarks.plan.profile import Profile
    from dgemma.core.manifest import Manifest
    from dgemma.quantize.recipes import Recipe

DEVICE = "amd-epyc-2-cores"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, how it samples, and its weights by recipe; of a bundle, the steps that its own canvases took, half of them."""

    config: ModelConfig
    sampler: SamplerConfig
    engines: tuple[str, ...]
    weights: tuple[Weights, ...]
    steps: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class WorkFlags:
    """What the model is to do."""

    prompt: Annotated[int, typer.Option("--prompt", metavar="P", help="Tokens of the prompt.")] = 128
    output: Annotated[int, typer.Option("--output", metavar="K", help="Tokens of the answer.")] = 512
    canvas: Annotated[
        str | None, typer.Option("--canvas", metavar="N,N", help="Canvas lengths to compare. Default: the model's own.")
    ] = None
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps-per-canvas",
            metavar="S|S-S",
            help="Denoising steps per canvas, or a range. Default: those of the bundle's own canvases, else 12-20.",
        ),
    ] = None
    soft: Annotated[str | None, typer.Option("--soft", metavar="exact|topk:K", help="Soft embeddings, as for export.")] = None

    def works(self, subject: Subject) -> list[Work]:
        """One for each canvas length; raises UsageError."""
        from dgemma.benchmarks.plan.predict import Work

        sampler = subject.sampler if self.soft is None else _sampler(self.soft)
        return [
            Work(
                config=subject.config,
                canvas=n,
                prompt=self.prompt,
                output=self.output,
                steps=_steps(self.steps, subject.sampler.steps, subject.steps),
                soft=EXACT if sampler.top_k is None else "gathered",
            )
            for n in _canvases(self.canvas, subject.config)
        ]


@grouped
def run(
    model: Annotated[str, typer.Argument(metavar="CKPT|PRESET|BUNDLE", help="Checkpoint, bundle, or 2b, 9b, 26b-a4b.")],
    *,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="FILE|NAME",
            help="A device profile, a result of dgemma bench, or the name of a shipped profile (a wrong name lists them).",
        ),
    ] = DEVICE,
    memory: Annotated[
        float | None,
        typer.Option("--memory", metavar="GB", help="Memory of the device, in 10^9 bytes. Default: its profile's."),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="RECIPE", help="fp32, w8, w4-mixed, w4, w4-all, NAME.json, or all.")
    ] = "all",
    engine: Annotated[str, typer.Option("--engine", metavar="onnx|executorch|all", help="Engines to compare.")] = "all",
    work: WorkFlags,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture", metavar="FILE.png", help="Plot the roofline, and where diffusion becomes faster (.png, .svg, .pdf)."
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show all figures, and where the device's come from.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> int:
    from dgemma.benchmarks.plan import npu, show
    from dgemma.benchmarks.plan.predict import predict, recommend

    if picture is not None:
        from dgemma.benchmarks.plan import plot

        plot.check(picture)
    subject = _subject(model, recipe)
    profile = _with_memory(_profile(device, subject.config), memory)
    works = work.works(subject)
    engines = _engines(engine, subject.engines, profile)
    found = [predict(profile, e, w, one) for w in subject.weights for e in engines for one in works]
    chosen, sentence = recommend(found, profile, works[0])
    left_out = _left_out(subject, recipe)
    unit = npu.forecast(profile, subject.weights, works)
    if picture is not None:
        plot.draw(picture, profile, works[0], found, model, unit)
    if as_json:
        values = {
            "model": model,
            "device": profile.to_dict(),
            "prompt": work.prompt,
            "output": work.output,
            "steps_per_canvas": list(works[0].steps),
            "predictions": [p.to_dict() for p in found],
            "recommended": chosen and chosen.to_dict(),
            "sentence": sentence,
            "left_out": left_out,
            "npu": unit and unit.to_dict(works[0]),
        }
        print_json(values, allow_nan=False)
    else:
        show.plan(profile, works[0], found, sentence, left_out, npu=unit, verbose=verbose)
        if device == DEVICE:
            print("That is the default device, not this machine: --device takes a profile, or")
            print("a result of `dgemma bench`.")
    return 0


def _sampler(soft: str) -> SamplerConfig:
    try:
        return SamplerConfig(soft=soft)
    except UsageError:
        raise UsageError(f"--soft {soft!r} must be {EXACT}, or topk:K with K between 1 and {MOST_K}") from None


def _left_out(subject: Subject, recipe: str) -> list[str]:
    """Recipes of `all` whose 4-bit groups do not divide the model's widths."""
    from dgemma.quantize.recipes import RECIPES

    wanted = RECIPES if recipe == "all" and len(subject.weights) > 1 else ()
    return [name for name in wanted if name not in {w.recipe for w in subject.weights}]


def _subject(model: str, recipe: str) -> Subject:
    """Raises CheckpointError, BundleError or UsageError."""
    from dgemma.core.manifest import MANIFEST, read_manifest
    from dgemma.runtime.decoder_choice import golden_steps

    folder = bundle_path(model)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder, check_files=False)[0]
        if recipe not in ("all", manifest.quantization["recipe"]):
            raise UsageError(
                f"--recipe {recipe}: {model} is a bundle with {manifest.quantization['recipe']}; give the checkpoint instead"
            )
        return Subject(
            config=manifest.model,
            sampler=manifest.sampler,
            engines=tuple(manifest.engines),
            weights=(_of_bundle(manifest),),
            steps=_own_steps(golden_steps(folder, manifest)),
        )
    from dgemma.model.hf_config import find_config

    config, sampler, _ = find_config(model)
    return Subject(config=config, sampler=sampler, engines=ENGINES, weights=_of_recipes(recipe, config))


def _own_steps(canvases: list[int]) -> tuple[float, float] | None:
    """Between which the middle half of the canvases lies; None without any."""
    if not canvases:
        return None
    ordered = sorted(canvases)
    return float(ordered[len(ordered) // 4]), float(ordered[-1 - len(ordered) // 4])


def _of_bundle(manifest: Manifest) -> Weights:
    from dgemma.benchmarks.plan.predict import Weights

    files = {e: sum(f.size for n, f in manifest.files.items() if n.startswith(f"{e}/")) for e in manifest.engines}
    values = manifest.quantization
    return Weights(recipe=values["recipe"], bits=values.get("bits") or {}, disk_bytes=files)


def _of_recipes(name: str, config: ModelConfig) -> tuple[Weights, ...]:
    from dgemma.benchmarks.plan.predict import Weights
    from dgemma.quantize.recipes import RECIPES, file_bytes, find

    recipes = [r for r in RECIPES.values() if _suits(r, config)] if name == "all" else [find(name)]
    for recipe in recipes:
        recipe.check(ENGINES, config)
    return tuple(
        Weights(
            recipe=r.name,
            bits={str(c): b for c, b in r.bits.items() if b < 32},
            disk_bytes={engine: file_bytes(r, engine, config) for engine in ENGINES},
        )
        for r in recipes
    )


def _suits(recipe: Recipe, config: ModelConfig) -> bool:
    """Whether 4-bit groups divide the model's widths, which they do in every preset."""
    try:
        recipe.check(ENGINES, config)
    except UsageError:
        return False
    return True


def _profile(device: str, config: ModelConfig) -> Profile:
    from dgemma.benchmarks.plan import fit, profile

    if not device or device in profile.names() or not (Path(device).suffix or Path(device).exists()):
        return profile.shipped(device)
    values = profile.read_json(Path(device), "--device")
    if fit.is_result(values):
        found = fit.fit([fit.as_result(values, f"--device {device}", [config])])
        measured, wanted = values["ceilings"]["read_bytes"], parameter_count(config)
        if measured < fit.LARGE and wanted > 4 * measured:
            raise UsageError(
                f"--device {device}: measured memory speed with {measured / 1e6:.1f} MB, which fits into caches; bench a "
                f"bundle of more than {fit.LARGE / 1e6:.0f} MB, or give a profile"
            )
        return found
    return profile.from_dict(values, f"--device {device}")


def _with_memory(profile: Profile, gigabytes: float | None) -> Profile:
    """The device with so many times 10^9 bytes."""
    if gigabytes is None:
        return profile
    if not 1 <= gigabytes <= 4096:
        raise UsageError(f"--memory {gigabytes:g} must be between 1 and 4096 GB")
    sources = {**profile.sources, "memory_bytes": "--memory"}
    return replace(profile, memory_bytes=int(gigabytes * 1e9), sources=sources)


def _engines(option: str, of: tuple[str, ...], profile: Profile) -> tuple[str, ...]:
    engines_of(option)
    if option != "all":
        profile.kernels(option)
        if option not in of:
            raise UsageError(f"--engine {option}: the bundle has {', '.join(of)} only")
        return (option,)
    if not (both := tuple(e for e in of if e in profile.engines)):
        raise UsageError(
            f"--device {profile.name}: has figures for {', '.join(profile.engines)}, the bundle is for {', '.join(of)}; "
            "give another"
        )
    return both


def _steps(text: str | None, most: int, own: tuple[float, float] | None) -> tuple[float, float]:
    """`12-20` or `8`, never more than the T of the model; None for the model's own steps, where they are known."""
    from dgemma.benchmarks.plan.predict import REPORTED_STEPS

    if text is None:
        few, many = own or REPORTED_STEPS
    else:
        try:
            few, many = (float(part) for part in (text.split("-") if "-" in text else (text, text)))
        except ValueError:
            raise UsageError(f"--steps-per-canvas {text!r} must be a number or FEW-MANY, such as 12-20") from None
        if not 1 <= few <= many <= MOST_STEPS:
            raise UsageError(f"--steps-per-canvas {text!r} must be a number or FEW-MANY, between 1 and {MOST_STEPS}")
    return min(few, most), min(many, most)


def _canvases(text: str | None, config: ModelConfig) -> list[int]:
    if text is None:
        return [config.canvas_length]
    return list(lengths(text, "--canvas", "256,64"))
