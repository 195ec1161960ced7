"""The file of `dgemma train`: TOML, read into policies; unknown keys are refused by name.

Paths in it are relative to its folder. It knows nothing of tokenizers.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.sampler import SamplerConfig
from dgemma.train.options import MOST_SEED, MOST_STEPS, Course, Objective, Optimizer

T = TypeVar("T")
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """What is trained: `init`, or a `preset`, or a shape by the fields of `ModelConfig`.

    Args:
        tokenizer: tokenizer.model or tokenizer.json, or their folder; None takes those of `init`.
        init: checkpoint folder, of a denoiser or of a causal model, whose weights training begins with; without it they are
            random. It has its own shape; only `canvas_length` can be given, for a causal model.
        dtype: of the weights that are written.
        shape: the other keys.
    """

    tokenizer: Path | None = None
    preset: str | None = None
    init: Path | None = None
    dtype: str = "float32"
    shape: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.init is not None and (other := [*(["preset"] if self.preset else []), *self.shape]) not in (
            [],
            ["canvas_length"],
        ):
            raise UsageError(f"model.{other[0]}: the weights of model.init have their own shape; leave it out")

    def config(self, vocab_size: int) -> ModelConfig:
        """The shape, with the tokenizer's size where the file names none; raises CheckpointError, UsageError."""
        if self.preset is not None and self.preset not in PRESETS:
            raise UsageError(f"model.preset {self.preset!r} is unknown; choose one of {', '.join(PRESETS)}")
        base = PRESETS[self.preset].to_dict() if self.preset is not None else {}
        try:
            return ModelConfig.from_dict({"vocab_size": vocab_size, **base, **self.shape})
        except CheckpointError as error:
            raise UsageError(f"model: {error}") from None


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Conversations: JSON lines with messages.

    Args:
        held_out: share of the conversations, or a file of others, that are measured and not trained on.
        tasks: `tiny`, for the exercises of tiny in place of `files`, drawn anew and by how well they are solved.
    """

    files: tuple[Path, ...] = ()
    held_out: float | Path = 0.02
    tasks: str | None = None

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.tasks):
            raise UsageError("data.files: name at least one file of conversations, or data.tasks, but not both")
        if self.tasks not in (None, "tiny"):
            raise UsageError(f"data.tasks {self.tasks!r} is unknown; choose tiny")
        if isinstance(self.held_out, float) and not 0 < self.held_out < 1:
            raise UsageError(f"data.held_out {self.held_out}: a share must be above 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """How long, and how much at once.

    Args:
        steps, tokens, minutes: one of them; minutes become tokens once, by a few steps timed as the run begins.
        batch: canvases of a step.
        threads: of torch; None takes one for each core.
    """

    steps: int | None = None
    tokens: int | None = None
    minutes: float | None = None
    batch: int = 32
    threads: int | None = None
    seed: int = 0
    evaluate_every: int = 100
    save_seconds: float = 60.0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "tokens", "minutes") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(f"run: give one of steps, tokens and minutes, not {' and '.join(given) or 'none'}")
        for name, least, most in (
            ("steps", 1, MOST_STEPS), ("tokens", 1, 10**15), ("minutes", 0.01, 10**6), ("batch", 2, 4096),
            ("threads", 1, 4096), ("seed", 0, MOST_SEED), ("evaluate_every", 1, MOST_STEPS), ("save_seconds", 0, 10**6),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"run.{name} {value}: must be from {least} to {most}")

    def course(self, tokens: int | None) -> Course:
        """The course; `tokens` are what the minutes come to."""
        return Course(
            steps=self.steps, tokens=self.tokens or tokens, evaluate_every=self.evaluate_every,
            save_seconds=self.save_seconds, bfloat16=self.bfloat16, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The whole file."""

    model: ModelSection
    data: DataSection
    run: RunSection
    objective: Objective = field(default_factory=Objective)
    optimizer: Optimizer = field(default_factory=Optimizer)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


def read(path: Path) -> TrainConfig:
    """Read a file; raises UsageError naming the file and the key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}); give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML ({str(error).splitlines()[0]})") from None
    try:
        return parse(values, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def parse(values: dict[str, Any], folder: Path) -> TrainConfig:
    """A config of plain values, paths relative to `folder`; raises UsageError naming the key."""
    sections = {f.name: f for f in dataclasses.fields(TrainConfig)}
    if unknown := sorted(set(values) - set(sections)):
        raise UsageError(f"unknown key {unknown[0]}; the sections are {', '.join(sections)}")
    kinds = typing.get_type_hints(TrainConfig)
    made: dict[str, Any] = {}
    for name, kind in kinds.items():
        given = values.get(name, {})
        if not isinstance(given, dict):
            raise UsageError(f"{name}: must be a section, [{name}]")
        if name in values or name in ("model", "data", "run"):
            made[name] = _section(name, kind, given, folder)
    return TrainConfig(**made)


def _section(name: str, kind: type[T], values: dict[str, Any], folder: Path) -> T:
    hints = typing.get_type_hints(kind)
    known = dict(hints)
    shape = dict[str, Any]()
    if kind is ModelSection:
        del known["shape"]
        fields = typing.get_type_hints(ModelConfig)
        shape = {key: value for key, value in values.items() if key in fields}
    if unknown := sorted(set(values) - set(known) - set(shape)):
        choices = [*known, *(typing.get_type_hints(ModelConfig) if kind is ModelSection else ())]
        near = get_close_matches(unknown[0], choices, n=1)
        cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(choices)}"
        raise UsageError(f"unknown key {name}.{unknown[0]}; {cure}")
    made: dict[str, Any] = {
        key: _converted(f"{name}.{key}", known[key], value, folder) for key, value in values.items() if key in known
    }
    return kind(**made | ({"shape": shape} if kind is ModelSection else {}))


def _converted(where: str, kind: Any, value: Any, folder: Path) -> Any:
    """A plain value as the type of its field; raises UsageError naming the key."""
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for choice in choices:
        origin, inner = typing.get_origin(choice), typing.get_args(choice)
        if origin is typing.Literal and value in inner:
            return value
        if origin is tuple and isinstance(value, list):
            return tuple(_converted(f"{where}[{i}]", inner[0], item, folder) for i, item in enumerate(value))
        if choice is Path and isinstance(value, str):
            return folder / Path(value).expanduser()
        if choice is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if choice in (int, str, bool) and type(value) is choice:
            return value
    allowed = [c for c in choices if c is not type(None)]
    names = [_NAMES.get(c) or ("a list" if typing.get_origin(c) is tuple else _either(typing.get_args(c))) for c in allowed]
    raise UsageError(f"{where} {value!r}: must be {' or '.join(names)}")


def _either(choices: tuple[Any, ...]) -> str:
    return " or ".join(map(str, choices))


def plain(config: Any) -> Any:
    """A config as JSON types; paths as texts."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config
