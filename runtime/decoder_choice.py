"""Which decoder answers sooner on this machine: times a denoising step and an autoregressive token. N canvas."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgemma.core.generate_options import AUTOREGRESSIVE, DIFFUSION
from dgemma.core.manifest import Manifest
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Engine
from dgemma.runtime.loops import Loops
from dgemma.runtime.prefix import Prefix, decode_feeds

GOLDEN = "golden.npz"
REPORTED_STEPS = 16  # of a canvas: 12 to 20 are reported for the released model
_SOON = 0.5  # seconds: a step that takes longer is not measured again without what a first call takes more


@dataclass(frozen=True, kw_only=True)
class DecoderChoice:
    """Seconds that each decoder would take for the tokens asked for, and the quicker of them.

    Args:
        steps: denoising steps of a canvas, as in the bundle's golden trajectories, or as reported for the released model.
    """

    tokens: int
    steps: float
    diffusion_s: float
    autoregressive_s: float

    @property
    def decoder(self) -> str:
        return DIFFUSION if self.diffusion_s <= self.autoregressive_s else AUTOREGRESSIVE

    def __str__(self) -> str:
        return (
            f"decoder {self.decoder}: for {self.tokens} tokens, about {self.diffusion_s:.3g} s by diffusion ({self.steps:.1f} "
            f"steps per canvas) and {self.autoregressive_s:.3g} s autoregressively"
        )


def choose_decoder(bundle: Bundle, engine: Engine, tokens: int) -> DecoderChoice:
    """Runs a step and a token, behind the beginning of an answer to nothing; raises EngineError.

    Args:
        tokens: how many are to be generated.
    """
    manifest = bundle.manifest
    engine.prepare("encode", "denoise", "decode")
    prefix = Prefix(engine)
    chat = manifest.chat
    prefix.extend([*chat.start, *chat.model_prefix] if chat else [manifest.model.bos_token_id])
    prefix.encode(lambda: False)
    steps = Loops(engine).host(prefix, 0, 0, False)
    step_s = _seconds(lambda: next(steps))
    feeds = decode_feeds(engine, prefix, manifest.model.pad_token_id, prefix.encoded)
    token_s = _seconds(lambda: engine.run("decode", feeds))
    each = _steps_per_canvas(bundle)
    canvases = -(-tokens // manifest.canvas_length)
    return DecoderChoice(tokens=tokens, steps=each, diffusion_s=canvases * each * step_s, autoregressive_s=tokens * token_s)


def _seconds(call: Callable[[], object]) -> float:
    """Of a call; of a second one where the first, which warms up, was quick."""
    found = 0.0
    for _ in range(2):
        started = time.perf_counter()
        call()
        found = time.perf_counter() - started
        if found > _SOON:
            break
    return found


def _steps_per_canvas(bundle: Bundle) -> float:
    """Of the artifact's golden trajectories, or where there are none as many as are reported."""
    steps = golden_steps(bundle.path, bundle.manifest)
    return sum(steps) / len(steps) if steps else float(min(REPORTED_STEPS, bundle.manifest.steps))


def golden_steps(folder: Path, manifest: Manifest) -> list[int]:
    """Denoising steps of each canvas of the artifact's golden trajectories; none where the bundle has no such file."""
    if GOLDEN not in manifest.files:
        return []
    with np.load(folder / GOLDEN) as golden:
        indices = [golden[name] for name in golden.files if re.fullmatch(r"artifact_\d+_canvas_index", name)]
    return [int(count) for index in indices for count in np.unique(index, return_counts=True)[1]]
