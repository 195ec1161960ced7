"""Train the checkpoint `story` on conversations that are drawn anew all the time; a killed run goes on from its last state.

python -m dgemma.train.story.train --work WORK --minutes 60 --out checkpoints/story
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import sentencepiece as spm
import torch

from dgemma.core.config import ModelConfig
from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.train.optimizers import Optimizers, initialize
from dgemma.train.options import Optimizer
from dgemma.train.story import vocabulary
from dgemma.train.story.dialogue import Messages
from dgemma.train.story.packed import Conversation, Mixture, batches, conversation_ids, losses
from dgemma.train.tiny.vocabulary import END_OF_TURN, TEMPLATE

POLICY = SamplerConfig(steps=48)
TOKENIZER = "tokenizer.model"
_LOG_SECONDS, _SAVE_SECONDS = 30.0, 120.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run depends on beside code and clock. Rates fall linearly to zero from a share of the time on.

    Args:
        tokens: ids of a batch.
        signal_rate: of AdamW for the self-conditioning. With Muon its signal grows to thirty times the embeddings that it is
            added to; the norm after the sum then hides which ids the canvas holds, and nothing accepted is kept.
        signal_scale: what the signal of the checkpoint that a run goes on from is multiplied by.
    """

    minutes: float = 60.0
    seed: int = 0
    tokens: int = 1000
    signal_scale: float = 1.0
    signal_rate: float = 3e-4
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(warmup_steps=50, decay_from=0.3))
    mixture: Mixture = field(default_factory=Mixture)


def story_config(vocab_size: int, end: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size, hidden_size=96, intermediate_size=256, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32,
        global_num_kv_heads=1, global_head_dim=64, sliding_window=256, canvas_length=32, max_position_embeddings=1024,
        eos_token_ids=(1, end),
    )  # fmt: skip


class Training:
    """Model, optimizers and how far they are."""

    def __init__(self, config: TrainConfig, tokenizer: Path) -> None:
        self.config = config
        sp = spm.SentencePieceProcessor(model_file=str(tokenizer))
        self.model = Denoiser(story_config(sp.vocab_size(), sp.piece_to_id(END_OF_TURN)))
        initialize(self.model, torch.Generator().manual_seed(config.seed))
        named = dict(self.model.named_parameters())
        signal = {name: p for name, p in named.items() if name.startswith("self_conditioning")}
        rest = {name: p for name, p in named.items() if name not in signal}
        self.optimizers = Optimizers(rest, config.optimizer)
        self.signal = Optimizers(signal, replace(config.optimizer, kind="adamw", rate=config.signal_rate))
        self.step, self.seconds, self.ids = 0, 0.0, 0

        def to_ids(messages: Messages) -> Conversation:
            shape = self.model.config
            end = shape.eos_token_ids[1]
            return conversation_ids(messages, sp.encode, shape.canvas_length, bos=shape.bos_token_id, end=end)

        self.to_ids = to_ids

    def advance(self, batch: Any, generator: torch.Generator) -> tuple[float, float, float]:
        """One step; both losses and the factor on the rates."""
        factor = self.config.optimizer.factor(self.step, self.seconds / (self.config.minutes * 60))
        diffusion, next_token = losses(self.model, batch, POLICY, self.config.mixture, generator)
        (diffusion + self.config.mixture.next_token_weight * next_token).backward()
        for part in (self.optimizers, self.signal):
            part.clip()
            part.step(factor)
            part.zero_grad()
        self.step, self.ids = self.step + 1, self.ids + batch.ids.numel() + batch.canvas.numel()
        return float(diffusion.detach()), float(next_token.detach()), factor

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "signal": self.signal.state_dict(),
            "at": (self.step, self.seconds, self.ids),
        }
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.signal.load_state_dict(state["signal"])
        self.step, self.seconds, self.ids = state["at"]


def run(work: Path, config: TrainConfig, init: Path | None = None) -> Training:
    """Train until the time is used up: from the last state in `work`, else the weights of a checkpoint, else random ones."""
    training, state = Training(config, work / TOKENIZER), work / "last.pt"
    if state.exists():
        training.load(state)
    elif init is not None:
        training.model.load_state_dict(checkpoint.load(init).model.state_dict())
        with torch.no_grad():
            training.model.self_conditioning.down_proj.weight.mul_(config.signal_scale)
    (work / "config.json").write_text(json.dumps(asdict(config)) + "\n")
    generator = torch.Generator().manual_seed(config.seed * 7919 + training.step)
    source = batches(training.to_ids, config.seed * 1_000_003 + training.step, config.tokens)
    last, logged, saved = time.monotonic(), training.seconds, training.seconds
    sums = [0.0, 0.0, 0]
    with (work / "log.jsonl").open("a") as log:
        while training.seconds < config.minutes * 60:
            diffusion, next_token, factor = training.advance(next(source), generator)
            sums = [sums[0] + diffusion, sums[1] + next_token, sums[2] + 1]
            now = time.monotonic()
            training.seconds, last = training.seconds + now - last, now
            if training.seconds - logged >= _LOG_SECONDS:
                line = {"step": training.step, "minutes": round(training.seconds / 60, 2), "tokens": training.ids,
                        "rate": round(factor, 4), "diffusion": round(sums[0] / sums[2], 4),
                        "next_token": round(sums[1] / sums[2], 4), "cpu": round(time.process_time(), 1)}  # fmt: skip
                log.write(json.dumps(line) + "\n")
                log.flush()
                logged, sums = training.seconds, [0.0, 0.0, 0]
            if training.seconds - saved >= _SAVE_SECONDS:
                training.save(state)
                saved = training.seconds
    training.save(state)
    return training


def publish(work: Path, out: Path, training: Training, stage: int = 1) -> None:
    """Write the checkpoint: weights, configs, tokenizer, template, and the log and configuration of the run's stage."""
    kept = out / "training" / f"stage-{stage}"
    kept.mkdir(parents=True, exist_ok=True)
    checkpoint.save(out, training.model.requires_grad_(False).eval(), POLICY, dtype=torch.float32)
    shutil.copyfile(work / TOKENIZER, out / TOKENIZER)
    (out / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    for name in ("config.json", "log.jsonl"):
        shutil.copyfile(work / name, kept / name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.train.story.train", description="Train the checkpoint story.")
    parser.add_argument("--work", type=Path, required=True, help="folder for state and log")
    parser.add_argument("--out", type=Path, help="checkpoint folder to write in the end")
    parser.add_argument("--minutes", type=float, default=TrainConfig.minutes)
    parser.add_argument("--init", type=Path, help="checkpoint whose weights to go on from, with fresh optimizers")
    parser.add_argument("--stage", type=int, default=1, help="names the folder of log and configuration in --out")
    parser.add_argument("--signal-scale", type=float, default=1.0, help="factor on the self-conditioning of --init")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates")
    parser.add_argument("--decay-from", type=float, default=TrainConfig().optimizer.decay_from)
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--tokens", type=int, default=TrainConfig.tokens)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / TOKENIZER).exists():
        vocabulary.build(options.work / TOKENIZER)
    stock = TrainConfig().optimizer
    optimizer = replace(
        stock, rate=stock.rate * options.rate, muon_rate=stock.muon_rate * options.rate, decay_from=options.decay_from
    )
    config = TrainConfig(
        minutes=options.minutes,
        seed=options.seed,
        tokens=options.tokens,
        optimizer=optimizer,
        signal_scale=options.signal_scale,
    )
    training = run(options.work, config, options.init)
    if options.out is not None:
        publish(options.work, options.out, training, options.stage)


if __name__ == "__main__":
    main()
