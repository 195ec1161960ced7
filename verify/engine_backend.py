"""A bundle's artifact on one engine as a backend: whole generations by its session, single steps by an engine of its own.

An ONNX engine is opened with outputs more than its graphs have (see `logits.py`), so that logits and taps can be read;
generations run on the artifact as it is. The two are not open at the same time unless who uses the backend wants it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dgemma.core.errors import EngineError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.install import pip_install
from dgemma.core.sampler import CANDIDATE_OUTPUTS, LOOP_INPUTS
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import choose, open_engine
from dgemma.runtime.engines.base import Engine, Feeds
from dgemma.runtime.guide import GUIDED
from dgemma.runtime.prefix import Prefix
from dgemma.runtime.session import Session
from dgemma.verify.backend import Array, Backend, StepOut, Taps
from dgemma.verify.logits import LogitsEngine
from dgemma.verify.steer import Steer


@runtime_checkable
class Showing(Protocol):
    """An engine that gives more than its graphs' outputs, as `LogitsEngine` does."""

    def taps(self, graph: str) -> Feeds: ...

    def logits(self, outputs: Feeds) -> Array: ...

    def routers(self, outputs: Feeds) -> dict[int, Array]: ...


class EngineBackend(Backend):
    """One engine of a bundle; `engine` as in `--engine`; `taps`: steps and chunks give their tensors, where an engine can.

    Attributes:
        fused: whether there is a graph of all steps.
    """

    fused = True
    steers = True

    def __init__(self, bundle: Bundle, engine: str, threads: int | None, *, taps: bool = False) -> None:
        manifest = bundle.manifest
        super().__init__(engine, manifest.model, manifest.sampler)
        self.bundle, self.threads, self._taps = bundle, threads, taps
        self.chunk = manifest.chunk
        self._session: Session | None = None
        self._engine: Engine | None = None
        self._cache: Prefix | None = None

    @property
    def session(self) -> Session:
        """Of the artifact as it is; opened when it is first wanted."""
        if self._session is None:
            self._session = Session.load(self.bundle.path, engine=self.name, threads=self.threads)
            self.facts = {self.name: self._session.engine_version}
        return self._session

    def trajectory(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int, loop: str = "host") -> Trajectory:
        result = self.session.generate(list(prompt_ids), max_new_tokens=max_new_tokens, seed=seed, trace=True, loop=loop)
        assert result.trajectory is not None
        return result.trajectory

    def steered(
        self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int, steer: Steer, loop: str = "host"
    ) -> Trajectory:
        options = GenerateOptions(
            sampler=steer.sampler,
            ban=steer.ban,
            min_tokens=steer.min_tokens,
            guidance=steer.guidance,
            max_new_tokens=max_new_tokens,
            seed=seed,
            trace=True,
            loop=loop,
        )
        result = self.session.generate(list(prompt_ids), options)
        assert result.trajectory is not None
        return result.trajectory

    @property
    def gives_candidates(self) -> bool:
        """Whether a step of the bundle's graphs puts out draws and likeliest ids."""
        outputs = {spec.name for spec in self.bundle.graph(self.name, "denoise").outputs}
        return outputs >= set(CANDIDATE_OUTPUTS)

    @property
    def guided(self) -> bool:
        """Whether the bundle has a graph of guided steps."""
        return GUIDED in self.bundle.manifest.graphs[self.name]

    @property
    def fuses_options(self) -> bool:
        """Whether the graph of all steps takes options."""
        inputs = {spec.name for spec in self.bundle.graph(self.name, "generate").inputs} if self.fused else set()
        return inputs >= set(LOOP_INPUTS)

    def tapped(self) -> EngineBackend:
        return self if self._taps else EngineBackend(self.bundle, self.name, self.threads, taps=True)

    def release(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def close(self) -> None:
        self.release()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def reset(self) -> None:
        if self._engine is None:
            self._engine, self.without_logits = self._open_forced()
            self._cache = Prefix(self._engine)
        assert self._cache is not None
        self._cache.truncate(0)

    def _open_forced(self) -> tuple[Engine, str | None]:
        """The engine of single steps, and why it gives no logits."""
        return open_forced(self.bundle, self.name, self.threads, taps=self._taps)

    def extend(self, ids: Sequence[int], *, taps: bool = False) -> Taps:
        assert self._cache is not None
        start = self._cache.encoded
        self._cache.extend(ids)
        self._cache.encode(lambda: False)
        if not taps:
            return {}
        found: Feeds = dict(self._engine.taps("encode")) if isinstance(self._engine, Showing) else {}
        for layer, pair in enumerate(self.prefix(start)):
            found |= {f"layers.{layer}.{name}": tensor for name, tensor in zip("kv", pair, strict=True)}
        return {name: tensor[: len(ids)] for name, tensor in found.items()}

    def prefix(self, start: int) -> list[tuple[Array, Array]]:
        assert self._cache is not None
        return self._cache.rows(start)

    def step(self, canvas: Array, soft: Array, words: Array, temperature: np.float32, *, taps: bool = False) -> StepOut:
        assert self._engine is not None and self._cache is not None
        feeds: Feeds = {
            **self._cache.feeds("denoise"),
            "prefix_length": np.array([self._cache.encoded], np.int64),
            "canvas": np.ascontiguousarray(canvas[None]),
            "soft": np.ascontiguousarray(soft[None], np.float32),
            "words": words.astype(np.int64),
            "temperature": np.array([temperature], np.float32),
        }
        out = self._engine.run("denoise", feeds)
        logits = self._engine.logits(out) if isinstance(self._engine, Showing) else None
        routers = self._engine.routers(out) if isinstance(self._engine, Showing) else {}
        found = self._engine.taps("denoise") if taps and isinstance(self._engine, Showing) else {}
        return StepOut(
            argmax=out["argmax"][0],
            entropy=out["entropy"][0],
            accepted=out["accepted"][0],
            canvas=out["next_canvas"][0],
            soft=out["next_soft"][0],
            logits=logits,
            **{name: out[name][0] for name in CANDIDATE_OUTPUTS if name in out},
            taps=found,
            routers=routers,
        )


def open_forced(bundle: Bundle, engine: str | None, threads: int | None, *, taps: bool = False) -> tuple[Engine, str | None]:
    """The engine for single steps, with logits where they can be had; and why not, where they cannot. Raises EngineError."""
    name, version = choose(bundle, engine)
    if name != "onnx":
        return open_engine(bundle, name, threads), f"{name} graphs do not put out logits, and cannot be opened for them"
    try:
        return LogitsEngine(bundle, version=version, threads=threads, taps=taps), None
    except ModuleNotFoundError:
        return open_engine(bundle, name, threads), f"logits need the onnx package; {pip_install('export')}"
    except EngineError as error:
        return open_engine(bundle, name, threads), str(error)
