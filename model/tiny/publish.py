"""Turns a training state into the shipped checkpoint: weights, configs, chat template, and the log of the run.

python -m dgemma.model.tiny.publish --work WORK --out checkpoints/tiny [--stage 2]
python -m dgemma.model.tiny.publish --work WORK --out checkpoints/tiny-moe --mixture
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import sentencepiece as spm
import torch

from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.tiny.experts import mixture_config
from dgemma.model.tiny.train import tiny_config
from dgemma.model.tiny.vocabulary import END_OF_TURN

# What won in the sweep on held-out prompts (see sweep.py and training/sweep.json).
SAMPLER = SamplerConfig(steps=16, confidence_threshold=0.1)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def load_state(work: Path, tokenizer: Path, *, mixture: bool = False) -> Denoiser:
    """The model of a training state, in eval mode without gradients."""
    sp = spm.SentencePieceProcessor(model_file=str(tokenizer))
    config = tiny_config(sp.vocab_size(), sp.piece_to_id(END_OF_TURN))
    model = Denoiser(mixture_config(config) if mixture else config)
    model.load_state_dict(torch.load(work / "last.pt", weights_only=True)["model"])
    return model.requires_grad_(False).eval()


def publish(work: Path, out: Path, stage: int, *, mixture: bool) -> None:
    """Write the checkpoint into `out`, which holds tokenizer.model already, and the log beside those of other stages.

    A mixture is written in bfloat16, as the released checkpoint is.
    """
    model = load_state(work, out / "tokenizer.model", mixture=mixture)
    checkpoint.save(out, model, SAMPLER, dtype=torch.bfloat16 if mixture else torch.float32)
    (out / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    logs = out / "training" / f"stage-{stage}"
    logs.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "log.jsonl"):
        shutil.copyfile(work / name, logs / name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.model.tiny.publish", description="Publish a training state.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--mixture", action="store_true", help="the state is one of tiny-moe")
    options = parser.parse_args()
    publish(options.work, options.out, options.stage, mixture=options.mixture)


if __name__ == "__main__":
    main()
