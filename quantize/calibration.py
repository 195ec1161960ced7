"""What a model's matrices are fed: mean outer products of inputs, recorded while the model denoises of its own accord.

A diffusion model reads canvases of all noise levels and its own soft embeddings, which clean text never shows; so
calibration runs `model.generate` on prompts and watches. Prompts are `.jsonl`, one object with `prompt_ids` a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dgemma.core.errors import UsageError
from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate

FORM = 'one object {"prompt_ids": [2, 17, …]} a line'
MAX_NEW_TOKENS = 256


def read_prompts(path: Path | str, vocab_size: int) -> list[list[int]]:
    """Prompt ids of a calibration file; raises UsageError naming file and line when it is empty or wrong."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"--calibration {path}: cannot be read ({reason}); give {FORM}") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            ids = json.loads(line)["prompt_ids"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(f"--calibration {path}: line {number} has no prompt_ids; give {FORM}") from None
        if not isinstance(ids, list) or not ids or not all(type(i) is int and 0 <= i < vocab_size for i in ids):
            raise UsageError(f"--calibration {path}: line {number} must list ids below {vocab_size}; give {FORM}")
        prompts.append(ids)
    if not prompts:
        raise UsageError(f"--calibration {path}: holds no prompts; give {FORM}")
    return prompts


class Recorder:
    """Sums of outer products of the inputs of every Linear, in float64, and how many tokens went into each."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, x: Tensor) -> None:
        """x [..., in]."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        product = (flat.t() @ flat).double()
        self.sums[name] = self.sums[name] + product if name in self.sums else product
        self.counts[name] = self.counts.get(name, 0) + flat.shape[0]

    def means(self) -> dict[str, Tensor]:
        """Parameter name → [in, in] float32."""
        return {name: (total / self.counts[name]).float() for name, total in self.sums.items()}

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: self.add(name, inputs[0])

    @contextmanager
    def watching(self, model: Denoiser) -> Iterator[None]:
        """Record all products of the model, the head's in denoising too, while this lasts."""
        table = model.embed_tokens
        plain = table.logits

        def logits(x: Tensor) -> Tensor:
            self.add("embed_tokens.weight", x)
            return plain(x)

        table.logits = logits  # type: ignore[method-assign]
        handles = [
            module.register_forward_pre_hook(self.hook(f"{name}.weight"))
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            yield
        finally:
            del table.logits  # the class's own again
            for handle in handles:
                handle.remove()


def hessians(
    model: Denoiser,
    sampler: SamplerConfig,
    prompts: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Tensor]:
    """Mean outer products [in, in] of what every Linear reads while the model answers the prompts, by parameter name."""
    recorder = Recorder()
    with recorder.watching(model):
        for i, ids in enumerate(prompts):
            generate(model, sampler, ids, seed=seed + i, max_new_tokens=MAX_NEW_TOKENS)
            if progress is not None and (i + 1) % 16 == 0:
                progress(f"calibration {i + 1} of {len(prompts)} prompts")
    return recorder.means()


@torch.no_grad()
def clean_hessians(model: Denoiser, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Tensor]:
    """The same of clean text, as calibration for autoregressive models is done: prompt and answer, no noise, no soft embedding.

    Args:
        texts: (prompt ids, answer ids); both are encoded as one text, and each canvas of the answer is denoised as it is.
    """
    recorder, n, pad = Recorder(), model.config.canvas_length, model.config.pad_token_id
    soft = torch.zeros(1, n, model.config.hidden_size)
    with recorder.watching(model):
        for prompt, answer in texts:
            _, prefix = model.encode(torch.tensor([[*prompt, *answer]]))
            for start in range(0, len(answer), n):
                length = len(prompt) + start
                canvas = torch.tensor([[*answer[start : start + n], *[pad] * (n - len(answer[start : start + n]))]])
                model.denoise(canvas, soft, [(k[:, :length], v[:, :length]) for k, v in prefix], length)
    return recorder.means()
