"""`dgemma distill` on tiny: two updates, a dry run, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_checks import fails

from dgemma.cli import dispatch
from dgemma.model import checkpoint

TURNS = [{"role": "user", "content": "Reverse the word table."}, {"role": "assistant", "content": "elbat"}]


def test_a_checkpoint_is_distilled(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "chat.jsonl", tmp_path / "few"
    file.write_text((json.dumps({"messages": TURNS}) + "\n") * 4)
    command = ["distill", str(tiny_checkpoint), "--data", str(file), "--updates", "2", "--batch", "2", "--out", str(out)]
    fails(capsys, [*command, "--steps", "0"], "--steps 0")
    fails(capsys, [*command, "--batch", "1"], "--batch 1")
    fails(capsys, [*command, "--temperature", "0.2:0.5"], "--temperature 0.2:0.5")
    fails(capsys, [*command, "--temperature", "warm"], "--temperature 'warm'")
    assert dispatch([*command, "--steps", "2", "--dry-run"]) == 0
    assert [text.split()[0] for text in capsys.readouterr().out.splitlines()] == ["data", "trained", "memory", "FLOPs", "time"]
    assert not out.exists()
    assert dispatch([*command, "--steps", "2", "--temperature", "0.5:0.2"]) == 0
    said = capsys.readouterr()
    assert f"{out}: checkpoint of step" in said.out and "2 denoising steps" in said.out and "step 2" in said.err
    before, after = checkpoint.load(tiny_checkpoint), checkpoint.load(out)
    assert after.sampler.steps == 2 and (after.sampler.t_max, after.sampler.t_min) == (0.5, 0.2)
    assert after.sampler.entropy_bound == before.sampler.entropy_bound
    assert (out / "tokenizer.model").exists() and (out / "chat_template.jinja").exists()
