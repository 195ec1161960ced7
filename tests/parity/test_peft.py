"""An adapter of `dgemma finetune` in peft on transformers' model, against the checkpoint that `dgemma merge` makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints as hf
import pytest
import torch
from safetensors.torch import load_file, save_file

from dgemma.model import checkpoint
from dgemma.train import lora
from dgemma.train.finetune import merge


def test_peft_makes_of_an_adapter_what_merging_makes_of_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, adapter = hf.save(hf.hf_model(experts=4), tmp_path / "base"), tmp_path / "adapter"
    model, generator = checkpoint.load(base).model, torch.Generator().manual_seed(0)
    lora.attach(model, 4, 0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, p in trained.items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(p, 0.0, 0.2, generator=generator)
    adapter.mkdir()
    lora.save(adapter, {name: p.detach() for name, p in trained.items()}, 4, str(base))
    merge(base, adapter, tmp_path / "merged")
    prompt, canvas = torch.arange(5, 25)[None], torch.arange(50, 50 + hf.CANVAS)[None]

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return torch.as_tensor(model.eval()(input_ids=prompt, decoder_input_ids=canvas).logits)

    def adapted(folder: Path) -> torch.Tensor:
        return logits(peft.PeftModel.from_pretrained(hf.hf_from_folder(base), folder))

    merged, whole = logits(hf.hf_from_folder(tmp_path / "merged")), adapted(adapter)
    close = 1e-4 * float(merged.max() - merged.min())
    assert (whole - merged).abs().max() <= close
    tensors = load_file(adapter / lora.WEIGHTS)
    half = tmp_path / "half"
    half.mkdir()
    (half / lora.CONFIG).write_text(json.dumps(json.loads((adapter / lora.CONFIG).read_text())))
    save_file({name: tensor for name, tensor in tensors.items() if ".encoder." not in name}, half / lora.WEIGHTS)
    assert (adapted(half) - merged).abs().max() > 10 * close  # the encoder's adapters are needed too
