"""What a configuration costs on a device: sizes, times of calls, tokens per second both ways, and where they are even.

Times are `Profile.seconds` of the calls as today's graphs run them, without active sets or early commits. What it does not
know: how many steps a model takes (that is the model's matter, so a range is carried through), clocks that fall when a
device gets warm, and what an engine packs twice. N canvas, P prompt, K output tokens, S steps a canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgemma.benchmarks.plan.profile import Profile
from dgemma.core.config import ModelConfig
from dgemma.core.cost import FLOAT, Cost, CostModel, as_run, held_bits
from dgemma.core.errors import UsageError

Json = dict[str, Any]
REPORTED_STEPS = (12.0, 20.0)  # a canvas of the released model, adaptive, as others report
ROOM = 0.75  # of a device's memory that one program may take; the rest is the system's and other programs'
CLOSE = 1.10  # speeds within this are the same, and more bits are the better choice
LAST_RESORT = ("w4-all",)  # recipes that change answers the most (docs/results/quantization.md): only where no other fits


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A recipe applied to a model.

    Args:
        bits: tensor class → bits on disk, as recipes name the classes.
        disk_bytes: engine → bytes of its files.
    """

    recipe: str
    bits: Mapping[str, int]
    disk_bytes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be planned for: lengths in tokens, steps a canvas as (few, many).

    Raises:
        UsageError: a value cannot be used.
    """

    config: ModelConfig
    canvas: int
    prompt: int = 128
    output: int = 512
    steps: tuple[float, float] = REPORTED_STEPS
    soft: str = "exact"

    def __post_init__(self) -> None:
        few, many = self.steps
        if not 1 <= self.canvas <= 4096:
            raise UsageError(f"--canvas {self.canvas} must be between 1 and 4096")
        if not 1 <= self.prompt <= 1_000_000 or not 1 <= self.output <= 1_000_000:
            raise UsageError(f"--prompt {self.prompt} and --output {self.output} must be numbers of tokens, 1 to 1,000,000")
        if not 1 <= few <= many <= 4096:
            raise UsageError(f"--steps-per-canvas {few:g}-{many:g} must be one number or FEW-MANY, between 1 and 4096")
        if self.prompt + self.canvases * self.canvas > self.config.max_position_embeddings:
            raise UsageError(
                f"--prompt {self.prompt} and {self.canvases} canvases of {self.canvas} are more than the model's "
                f"{self.config.max_position_embeddings} positions; ask for less --output"
            )

    @property
    def canvases(self) -> int:
        return -(-self.output // self.canvas)

    def position_forwards_per_token(self, steps: float) -> float:
        """Positions put through the stack by steps and by encoding what was committed, over tokens; the prompt aside."""
        return self.canvases * self.canvas * (steps + 1) / self.output


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One configuration; times in seconds, sizes in bytes.

    Args:
        bits: of a weight on disk, on the mean of the matrices of stack and head.
        resident: weights as kernels hold them, keys and values of the whole text, and what a step needs beside; at least.
        step, token: at the middle of the output; `floor` of each is what `dgemma bench` judges by.
        break_even: steps a canvas at which diffusion and autoregressive decoding take as long; 0 when diffusion never wins.
        calls: the costs, as run.
    """

    recipe: str
    engine: str
    canvas: int
    disk: int
    resident: int
    fits: bool
    step: float
    step_floor: float
    encode: float
    prefill: float
    token: float
    token_floor: float
    diffusion: tuple[float, float]
    autoregressive: float
    break_even: float
    position_forwards_per_token: tuple[float, float]
    bits: float
    calls: Mapping[str, Cost]

    @property
    def middle(self) -> float:
        """Tokens per second of diffusion between its few and many steps."""
        return sum(self.diffusion) / 2

    @property
    def best(self) -> float:
        """Tokens per second of the better decoder."""
        return max(self.middle, self.autoregressive)

    def to_dict(self) -> Json:
        """JSON types, milliseconds."""
        return {
            "recipe": self.recipe,
            "engine": self.engine,
            "canvas": self.canvas,
            "disk_bytes": self.disk,
            "resident_bytes": self.resident,
            "fits": self.fits,
            "bits_per_weight": self.bits,
            "step_ms": 1e3 * self.step,
            "step_floor_ms": 1e3 * self.step_floor,
            "encode_ms": 1e3 * self.encode,
            "prefill_ms": 1e3 * self.prefill,
            "token_ms": 1e3 * self.token,
            "token_floor_ms": 1e3 * self.token_floor,
            "diffusion_tokens_per_s": list(self.diffusion),
            "autoregressive_tokens_per_s": self.autoregressive,
            "break_even_steps": self.break_even,
            "position_forwards_per_token": list(self.position_forwards_per_token),
        }


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What runs the calls of a model.

    Args:
        name: an engine's, or NPU.
        run, least: costs as run, and as needed.
        seconds: a call's cost as run → its time.
        floor: a call's cost as needed → the time under which it cannot come.
        room: bytes that a model may take there.
        bits: of a weight on disk by tensor class.
    """

    name: str
    run: CostModel
    least: CostModel
    seconds: Callable[[Cost], float]
    floor: Callable[[Cost], float]
    room: float
    bits: Mapping[str, int]


def predict(profile: Profile, engine: str, weights: Weights, work: Work) -> Prediction:
    """On the device's processor, with an engine; raises UsageError for an engine that the profile does not have."""
    c = work.config
    bits = held_bits({"bits": weights.bits}, engine)
    on = Processor(
        name=engine,
        run=as_run(c, bits, work.soft),
        least=CostModel(config=c, bits=bits, soft=work.soft),
        seconds=lambda cost: profile.seconds(engine, cost, c.num_layers),
        floor=lambda cost: profile.ceilings(engine, cost.weight_bytes).floor_s(cost),
        room=ROOM * profile.memory_bytes,
        bits=weights.bits,
    )
    return on_processor(on, weights.recipe, weights.disk_bytes[engine], work)


def on_processor(on: Processor, recipe: str, disk: int, work: Work) -> Prediction:
    """All figures of one configuration, from the times of its calls."""
    n, run, seconds = work.canvas, on.run, on.seconds
    starts = [work.prompt + i * n for i in range(work.canvases)]
    prefill = sum(seconds(run.encode(min(n, work.prompt - s), s)) for s in range(0, work.prompt, n))
    denoise = sum(seconds(run.denoise(n, s)) for s in starts)  # one step of every canvas
    encode = sum(seconds(run.encode(n, s)) for s in starts[:-1])  # the last canvas is not read any more
    middle = work.prompt + work.output // 2
    token = seconds(run.decode(middle))  # linear in the prefix, so the middle one is the mean
    calls = {"denoise": run.denoise(n, middle), "encode": run.encode(n, middle), "decode": run.decode(middle)}
    few, many = work.steps
    one = work.output * token  # autoregressive, the prompt aside
    resident = run.resident_bytes(work.prompt + work.canvases * n, n)
    weighed = [(p.weights, on.bits.get(name, FLOAT)) for name, p in run.decode(0).products.items()]
    return Prediction(
        recipe=recipe,
        engine=on.name,
        canvas=n,
        disk=disk,
        resident=resident,
        fits=resident <= on.room,
        step=seconds(calls["denoise"]),
        step_floor=on.floor(on.least.denoise(n, middle)),
        encode=seconds(calls["encode"]),
        prefill=prefill,
        token=token,
        token_floor=on.floor(on.least.decode(middle)),
        diffusion=(work.output / (prefill + many * denoise + encode), work.output / (prefill + few * denoise + encode)),
        autoregressive=work.output / (prefill + one),
        break_even=max(0.0, (one - encode) / denoise),
        position_forwards_per_token=(work.position_forwards_per_token(few), work.position_forwards_per_token(many)),
        bits=sum(count * b for count, b in weighed) / sum(count for count, _ in weighed),
        calls=calls,
    )


def choose(found: Sequence[Prediction]) -> Prediction | None:
    """The fastest that fits, and of those that are as fast the most bits; a recipe of `LAST_RESORT` only where nothing else
    fits."""
    fitting = [p for p in found if p.fits]
    fitting = [p for p in fitting if p.recipe not in LAST_RESORT] or fitting
    top = max((p.best for p in fitting), default=0.0)
    return max((p for p in fitting if p.best * CLOSE >= top), key=lambda p: (round(p.bits, 2), p.best), default=None)


def recommend(found: Sequence[Prediction], profile: Profile, work: Work) -> tuple[Prediction | None, str]:
    """What `choose` says, and a sentence with the reason."""
    if (chosen := choose(found)) is None:
        least = min(found, key=lambda p: p.resident)
        return None, (
            f"Nothing fits: {least.recipe} with {least.engine} needs at least {gb(least.resident)} of memory, and one "
            f"program can have {gb(int(ROOM * profile.memory_bytes))} of {gb(profile.memory_bytes)} on {profile.name}; take a "
            f"smaller model."
        )
    few, many = work.steps
    slow, fast = chosen.diffusion
    what = f"Take {chosen.recipe} with {chosen.engine} and a canvas of {chosen.canvas} ({gb(chosen.disk)} on disk, "
    what += f"{gb(chosen.resident)} in memory)"
    what += "" if chosen.recipe not in LAST_RESORT else ", the recipe that changes answers the most, as no other fits"
    speeds = f"{digits(slow)} to {digits(fast)} tokens/s at {many:g} to {few:g} steps per canvas"
    other = f"{digits(chosen.autoregressive)} autoregressively"
    if few >= chosen.break_even:
        return chosen, (
            f"{what}, and decode autoregressively: {digits(chosen.autoregressive)} tokens/s, where diffusion gives {speeds} "
            f"and would have to finish a canvas in fewer than {chosen.break_even:.1f} steps to be faster."
        )
    sure = many <= chosen.break_even
    tail = "at any of these" if sure else f"only with fewer than {chosen.break_even:.1f} steps"
    return chosen, f"{what}: diffusion gives {speeds} against {other}, and is faster {tail}."


def digits(value: float) -> str:
    """Three digits, never in exponents."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
