"""`dgemma train` and `dgemma adapt` with tiny's tokenizer: a few steps of a small shape, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_checks import fails

from dgemma.cli import dispatch
from dgemma.model import causal, checkpoint
from dgemma.train.runs import copy_texts

CONFIG = """\
[model]
tokenizer = "{tokenizer}"
hidden_size = 32
intermediate_size = 48
num_layers = 2
num_heads = 2
num_kv_heads = 2
head_dim = 16
global_num_kv_heads = 1
global_head_dim = 32
sliding_window = 8
canvas_length = 8
max_position_embeddings = 128
eos_token_ids = [1, 5]

[data]
files = ["chat.jsonl"]

[run]
steps = 2
batch = 2
threads = 1
"""
TURNS = [{"role": "user", "content": "Reverse the word table."}, {"role": "assistant", "content": "elbat"}]


@pytest.fixture
def config(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    (tmp_path / "chat.jsonl").write_text((json.dumps({"messages": TURNS}) + "\n") * 6)
    (tmp_path / "config.toml").write_text(CONFIG.format(tokenizer=tiny_checkpoint / "tokenizer.model"))
    return tmp_path / "config.toml"


def test_a_checkpoint_from_scratch_and_one_adapted_from_it(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert dispatch(["train", str(config), "--out", str(out), "--dry-run"]) == 0
    said, _ = capsys.readouterr()
    assert [text.split()[0] for text in said.splitlines()] == ["data", "trained", "memory", "FLOPs", "time"]
    assert "5 canvases to train on, 1 held out" in said and not out.exists()
    assert dispatch(["train", str(config), "--out", str(out)]) == 0
    said, err = capsys.readouterr()
    assert f"{out}: checkpoint of step" in said and "step 2 (100%), loss" in err
    assert {path.name for path in out.iterdir()} == {
        "LICENSE", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.model",
        "training",
    }  # fmt: skip
    loaded = checkpoint.load(out)
    assert loaded.config.vocab_size == 618 and loaded.config.canvas_length == 8

    causal.save_causal(tmp_path / "causal", loaded.model)
    copy_texts(out, tmp_path / "causal")
    adapt = ["adapt", str(tmp_path / "causal"), "--data", str(tmp_path / "chat.jsonl"), "--canvas", "4", "--threads", "1"]
    assert dispatch([*adapt, "--out", str(tmp_path / "adapted"), "--tokens", "300", "--batch", "2"]) == 0
    adapted = checkpoint.load(tmp_path / "adapted")
    assert adapted.config.canvas_length == 4 and (tmp_path / "adapted" / "chat_template.jinja").is_file()


def test_what_is_wrong_is_said_before_training(
    config: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "out", config.read_text()
    train = ["train", str(config), "--out", str(out)]
    fails(capsys, [*train, "--resume"], "state.pt: there is no state to continue from")
    for wrong, right, message in (
        ("bach = 2", "batch = 2", "config.toml: unknown key run.bach; did you mean batch?"),
        ('tokenizer = "none"', f'tokenizer = "{tiny_checkpoint / "tokenizer.model"}"', "model.tokenizer"),
        ("", f'tokenizer = "{tiny_checkpoint / "tokenizer.model"}"', "model.tokenizer is missing"),
        ("vocab_size = 600", "eos_token_ids = [1, 5]", "has 618 pieces, but the model has only 600 ids"),
    ):
        config.write_text(text.replace(right, wrong))
        fails(capsys, train, message)
    config.write_text(text)
    with (tmp_path / "chat.jsonl").open("a") as data:
        data.write("{\n")
    fails(capsys, train, "chat.jsonl:7: is not JSON")
    fails(capsys, [*train, "--threads", "0"], "--threads 0")
    adapt = ["adapt", str(tiny_checkpoint), "--data", "x", "--out", str(out), "--tokens", "1"]
    fails(capsys, adapt, "is not a causal Gemma 4 model")
    assert not (out / "model.safetensors").exists()
