"""`dgemma finetune` and `dgemma merge` on tiny: two steps, the ids of its chat template, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_checks import fails

from dgemma.cli import dispatch
from dgemma.cli.checkpoint_text import CheckpointText
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.messages import read_messages
from dgemma.model import checkpoint
from dgemma.train.tiny.vocabulary import END_OF_TURN, user_turn

TURNS = [{"role": "user", "content": "Reverse the word table."}, {"role": "assistant", "content": "elbat"}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    path.write_text((json.dumps({"messages": TURNS}) + "\n") * 4)
    return path


def test_conversations_become_what_tiny_was_trained_on(tiny_checkpoint: Path) -> None:
    import sentencepiece

    text = CheckpointText(tiny_checkpoint)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(tiny_checkpoint / "tokenizer.model"))
    (first,) = text.exchanges(read_messages(TURNS))
    prompt = [2, *sp.encode(user_turn("Reverse the word table."))]
    assert first == (prompt, [*sp.encode("elbat"), sp.piece_to_id(END_OF_TURN)])
    again = text.exchanges(read_messages([*TURNS, *TURNS]))
    assert len(again) == 2 and again[1][0][: len(prompt)] == prompt and again[1][1] == first[1]
    with pytest.raises(UsageError, match="message 2: the answer is empty"):
        text.exchanges(read_messages([TURNS[0], {"role": "assistant", "content": ""}]))
    with pytest.raises(UsageError, match="message 1: an answer has nothing before it"):
        text.exchanges(read_messages([TURNS[1]]))
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    with pytest.raises(UsageError, match="message 2: calls tools"):
        text.exchanges(read_messages([TURNS[0], call]))


def test_a_folder_without_text_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((tiny_checkpoint / name).read_bytes())
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        CheckpointText(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((tiny_checkpoint / "tokenizer.model").read_bytes())
    with pytest.raises(CheckpointError, match="has no chat template"):
        CheckpointText(tmp_path)


def test_an_adapter_is_trained_and_merged(
    tiny_checkpoint: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter, merged = str(tiny_checkpoint), tmp_path / "adapter", tmp_path / "merged"
    common = ["finetune", base, "--data", str(file), "--lora", "2", "--batch", "2", "--steps", "2"]
    assert dispatch([*common, "--out", str(adapter), "--dry-run"]) == 0
    out, _ = capsys.readouterr()
    assert [text.split()[0] for text in out.splitlines()] == ["data", "trained", "memory", "FLOPs", "time"]
    assert "3 canvases to train on, 1 held out" in out and not adapter.exists()
    assert dispatch([*common, "--out", str(adapter)]) == 0
    out, err = capsys.readouterr()
    assert f"{adapter}: adapter of step" in out and "step 2 (100%), loss" in err
    assert "note: without --replay, the checkpoint may forget" in err
    assert dispatch([*common, "--replay", str(file), "--out", str(tmp_path / "other"), "--dry-run"]) == 0
    assert "replay" not in capsys.readouterr().err
    assert dispatch(["merge", base, str(adapter), "--out", str(merged)]) == 0
    assert "matrices changed" in capsys.readouterr().out
    copied = {path.name for path in tiny_checkpoint.iterdir() if path.is_file()}
    assert {path.name for path in merged.iterdir()} == copied
    assert checkpoint.load(merged).sampler == checkpoint.load(tiny_checkpoint).sampler


def test_what_is_wrong_is_said_before_training(
    tiny_checkpoint: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = str(tiny_checkpoint), str(tmp_path / "out")
    with file.open("a") as data:
        data.write('{"messages": [{"role": "user", "content": "a"}]}\n')
    fails(capsys, ["finetune", base, "--data", str(file), "--out", out], "chat.jsonl:5: has no assistant message")
    fails(capsys, ["finetune", base, "--data", str(file), "--out", out, "--lora", "0"], "--lora 0")
    fails(capsys, ["finetune", base, "--data", str(file), "--out", out, "--threads", "0"], "--threads 0")
    fails(capsys, ["merge", base, str(tmp_path), "--out", out], "is not an adapter: it has no adapter_config.json")
    assert not Path(out).exists()
