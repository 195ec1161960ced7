"""`dgemma eval` on a toy model: position-forwards counted by hand, figures, the side file, a run that is killed, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import CHUNK, STEPS, N, fake_session, write_bundle

from dgemma.benchmarks.eval.figures import Row, by_task, figures, groups_by_prefix, summarize
from dgemma.benchmarks.eval.journal import Journal, side_file
from dgemma.cli import dispatch
from dgemma.core.errors import UsageError
from dgemma.core.metrics import wilson
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.tokenizer import load_tokenizer

CONTEXT = 600
ROOM: dict[str, Any] = {"context": CONTEXT, "dims": {"S": (1, CONTEXT), "L": (1, CONTEXT), "C": (1, CHUNK)}}

# ---- position-forwards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["host", "graph"])
def test_position_forwards_are_steps_times_canvas_and_commits(tmp_path: Path, loop: str) -> None:
    """20 tokens: two canvases of 4 steps (final in the third, seen stable in the fourth), one commit of 16."""
    with fake_session(tmp_path / "b", list(range(200, 220))) as session:
        result = session.generate([2, 6], loop=loop)
        assert (result.steps, result.canvases, len(result.tokens)) == (8, 2, 20)
        assert result.position_forwards == 8 * N + N
        assert result.prefill_position_forwards == 2
        assert result.position_forwards_per_token == (8 * 16 + 16) / 20
        fixed = session.generate([2, 6], loop=loop, adaptive=False)
        assert fixed.position_forwards == 2 * STEPS * N + N
        again = session.generate([6], loop=loop, continue_=True)
        assert again.prefill_position_forwards == 5 + 1  # four tokens and the stop token of the last canvas, and the prompt
        assert again.to_dict()["position_forwards"] == again.position_forwards == 8 * N + N


def test_autoregressive_decoding_forwards_one_position_a_call(tmp_path: Path) -> None:
    with fake_session(tmp_path / "b", list(range(200, 220))) as session:
        result = session.decode_greedy([2, 100, 6])
    counts = (result.position_forwards, result.steps, result.prefill_position_forwards)
    assert counts == (21, 21, 2)  # 20 tokens and the stop token
    assert result.position_forwards_per_token == 21 / 20


def test_an_empty_answer_has_no_position_forwards_per_token(tmp_path: Path) -> None:
    with fake_session(tmp_path / "b", []) as session:
        result = session.generate([2, 6])
    assert result.tokens == () and result.position_forwards == result.steps * N and result.position_forwards_per_token is None


# ---- figures ---------------------------------------------------------------------------------------------------------


def row(index: int, right: bool, decoder: str = "diffusion", task: str = "mmlu/a", **changes: Any) -> Row:
    values: dict[str, Any] = {
        "file": 0,
        "index": index,
        "line": index + 1,
        "task": task,
        "decoder": decoder,
        "choices": 4,
        "text": "x",
        "found": "A",
        "right": right,
        "strict": right,
        "tokens": 10,
        "steps": 4,
        "canvases": 1,
        "position_forwards": 64,
        "prefill_position_forwards": 30,
        "stop_reason": "stop",
        "seconds": 0.5,
    }
    return Row(**{**values, **changes})


def test_figures_by_hand() -> None:
    longer = {"steps": 8, "canvases": 2, "position_forwards": 144}
    rows = [row(0, True), row(1, False, found=None, choices=2, stop_reason="length", **longer)]
    found = figures([*rows, row(2, True, strict=False)])
    assert (found["n"], found["right"], found["unparsed"], found["strict"]["right"]) == (3, 2, 1, 1)
    assert (found["low"], found["high"]) == wilson(2, 3)
    assert found["chance"] == pytest.approx((1 / 4 + 1 / 2 + 1 / 4) / 3)
    assert found["steps_per_canvas"] == 16 / 4
    assert found["tokens_per_forward"] == 30 / 16
    assert found["position_forwards_per_token"] == (64 + 144 + 64) / 30
    assert found["tokens_per_s"] == 30 / 1.5
    assert (found["mean_prefill_position_forwards"], found["stop_reasons"]) == (30, {"length": 1, "stop": 2})
    free = figures([row(0, True, choices=0, tokens=0, canvases=0)])
    assert free["chance"] is free["position_forwards_per_token"] is free["steps_per_canvas"] is None


def test_pairs_are_of_the_same_question_whatever_the_order() -> None:
    right = {"diffusion": [True, True, False, False], "autoregressive": [True, False, True, False]}
    rows = [row(i, r, decoder) for decoder, rs in right.items() for i, r in enumerate(rs)]
    rows += [row(9, True, decoder, "gsm8k", choices=0) for decoder in right]
    for order in (rows, rows[::-1]):
        split = by_task(order)
        summary = summarize(split, groups_by_prefix(split))
        assert summary["difference"]["mmlu"]["exact"] == 0.0
        assert summary["difference"]["mmlu"]["high"] == pytest.approx(1.959964 * 2**0.5 / 4, rel=1e-5)
        assert set(summary["pooled"]) == {"mmlu", "all tasks"}
        assert summary["pooled"]["all tasks"]["diffusion"]["n"] == 5
    assert groups_by_prefix(["mmlu/a", "mmlu/b"]) == {"all tasks": ["mmlu/a", "mmlu/b"]}


# ---- the side file ---------------------------------------------------------------------------------------------------

WANTED = [(0, i, "diffusion") for i in range(3)]
SETTINGS = {"bundle": "b", "seed": 0}


def open_journal(path: Path, settings: dict[str, Any] = SETTINGS, *, resume: bool = True) -> Journal:
    return Journal(path, settings, WANTED, resume=resume)


def test_rows_are_kept_and_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_journal(path, resume=False) as journal:
        journal.add(row(0, True))
        journal.add(row(1, False, text="\u2028 ü"))
    whole = path.read_bytes()
    for torn in (b'{"file": 0, "ind', b"{"):
        path.write_bytes(whole + torn)
        with open_journal(path) as journal:
            assert list(journal.rows.values()) == [row(0, True), row(1, False, text="\u2028 ü")]
        assert path.read_bytes() == whole
    path.write_bytes(whole[:10])  # killed while the first line was written
    with open_journal(path) as journal:
        assert journal.rows == {}
    assert path.read_bytes() == whole.split(b"\n")[0] + b"\n"


def test_a_side_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_journal(path) as journal:
        journal.add(row(0, True))
        with pytest.raises(UsageError, match="another eval is writing"), open_journal(path):
            pass
    content = path.read_text()
    cases: list[tuple[str, dict[str, Any], str]] = [
        (content, {"bundle": "c", "seed": 0}, "a different bundle"),
        (content, {"bundle": "b", "seed": 1}, "a different seed"),
        (content, {"bundle": "b"}, "a different seed"),
        (content + "{}\n", SETTINGS, "j:3: is not an answer"),
        (content + content.splitlines()[1] + "\n", SETTINGS, "j:3: answers a question a second time"),
        (content.replace('"index": 0', '"index": 7'), SETTINGS, "j:2: is not an answer from this run"),
        (content + "?\n", SETTINGS, "j:3: is damaged"),
        ("{}\n", SETTINGS, "not an answer file"),
    ]
    for text, settings, says in cases:
        path.write_text(text)
        with pytest.raises(UsageError, match=says) as error, open_journal(path, settings):
            pass
        assert "\n" not in str(error.value) and str(path) in str(error.value)
        assert path.read_text() == text
    with pytest.raises(UsageError, match="--resume to continue"), open_journal(path, resume=False):
        pass


# ---- the command -----------------------------------------------------------------------------------------------------

QUESTIONS = [
    {"question": f"{i}?", "subject": subject, "choices": ["a", "b", "c", "d"], "answer": i % 4}
    for subject in ("law", "art")
    for i in range(8)
]


@pytest.fixture
def asked(tmp_path: Path, toy: dict[str, Any]) -> tuple[str, str]:
    """A bundle that answers everything with `Answer: B`, and a file of sixteen questions, four of them so."""
    bundle = write_bundle(tmp_path / "toy.dgemma", **ROOM)
    tokenizer = load_tokenizer(Bundle.open(bundle))
    assert tokenizer is not None
    toy["answer"] = tokenizer.encode("Answer: B")
    assert tokenizer.decode(toy["answer"]) == "Answer: B"
    file = tmp_path / "mmlu.jsonl"
    file.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    return str(bundle), str(file)


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert dispatch(["eval", *args, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    values: dict[str, Any] = json.loads(out)
    return values


def test_eval_scores_and_counts_both_decoders(
    asked: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, file = asked
    out = tmp_path / "out.json"
    result = run_json(capsys, bundle, "--task", file, "--decoder", "both", "--out", str(out))
    assert json.loads(out.read_text()) == result
    for decoder in ("diffusion", "autoregressive"):
        pooled = result["pooled"]["all tasks"][decoder]
        assert (pooled["n"], pooled["right"], pooled["strict"]["right"], pooled["unparsed"]) == (16, 4, 4, 0)
        assert pooled["chance"] == 0.25
    tokens, diffusion = pooled["mean_tokens"], result["tasks"]["mmlu/law"]["diffusion"]
    assert diffusion["position_forwards_per_token"] == diffusion["steps_per_canvas"] * N / tokens
    assert pooled["position_forwards_per_token"] == (tokens + 1) / tokens
    assert result["difference"]["all tasks"] == {"exact": 0.0, "low": 0.0, "high": 0.0}
    (described,) = result["files"]
    assert described["format"] == "mmlu" and "Answer: X" in described["prompt"] and "strict" in described["rule"]
    lines = side_file(out).read_text().splitlines()
    assert len(lines) == 1 + 32 and str(tmp_path) not in json.dumps(result) + lines[0]
    assert dispatch(["eval", bundle, "--task", file, "--limit", "2"]) == 0
    shown = capsys.readouterr()
    assert "position-forwards/token" in shown.out and "mmlu, 16 questions, 2 tasks" in shown.err and "eval: 4/4" in shown.err


def test_shots_change_the_prompt_and_the_prefill(
    asked: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, file = asked
    plain = run_json(capsys, bundle, "--task", file)["pooled"]["all tasks"]["diffusion"]
    some = run_json(capsys, bundle, "--task", file, "--shots", file, "--num-shots", "2")["pooled"]["all tasks"]["diffusion"]
    assert some["mean_prefill_position_forwards"] > plain["mean_prefill_position_forwards"] + 40
    law = tmp_path / "law.jsonl"
    law.write_text(json.dumps(QUESTIONS[0]) + "\n")
    assert dispatch(["eval", bundle, "--task", file, "--shots", str(law)]) == 2
    assert "no example of mmlu/" in capsys.readouterr().err


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    """The result without what a clock or the day decides."""
    drop = {"seconds", "tokens_per_s", "machine"}
    return {k: without_times(v) if isinstance(v, dict) else v for k, v in result.items() if k not in drop}


SLOW = """
import sys, time
sys.path.insert(0, {support!r})
import fake_bundle
from dgemma.cli import dispatch
from dgemma.runtime import session
class Slow(fake_bundle.FakeEngine):
    def _call(self, graph, feeds):
        time.sleep(0.01)
        return super()._call(graph, feeds)
session.open_engine = lambda bundle, *_: Slow(bundle, {answer!r})
sys.exit(dispatch({args!r}))
"""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_to_the_same_figures(
    asked: tuple[str, str], toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], kill: signal.Signals
) -> None:
    bundle, file = asked
    args = ["eval", bundle, "--task", file, "--decoder", "both", "--seed", "3"]
    whole = run_json(capsys, *args[1:], "--out", str(tmp_path / "whole.json"))
    out = tmp_path / "killed.json"
    support = str(Path(__file__).parents[1] / "support")
    script = SLOW.format(support=support, answer=toy["answer"], args=[*args, "--out", str(out)])
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        wait_for(lambda: side_file(out).exists() and side_file(out).read_bytes().count(b"\n") > 5, process)
    finally:
        process.send_signal(kill)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == (-signal.SIGKILL if kill == signal.SIGKILL else 130)
    assert kill == signal.SIGKILL or "answers are kept" in error
    kept = side_file(out).read_bytes().count(b"\n") - 1
    assert 5 <= kept < 32 and not out.exists()
    assert dispatch([*args, "--out", str(out)]) == 2
    assert "--resume to continue" in capsys.readouterr().err
    assert dispatch([*args[:-1], "4", "--out", str(out), "--resume"]) == 2
    assert "a different seed" in capsys.readouterr().err
    resumed = run_json(capsys, *args[1:], "--out", str(out), "--resume")
    assert without_times(resumed) == without_times(whole)
    assert side_file(out).read_bytes().count(b"\n") - 1 == 32
    again = run_json(capsys, *args[1:], "--out", str(out), "--resume")  # nothing left to do: the figures from the file
    assert {**again, "machine": 0} == {**resumed, "machine": 0}


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert dispatch(["eval", *args]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_bad_input_is_one_line(asked: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, file = asked
    assert "--task" in fails(capsys, bundle)
    assert "names a file twice" in fails(capsys, bundle, "--task", file, "--task", file)
    assert "choose one of diffusion, autoregressive, both" in fails(capsys, bundle, "--task", file, "--decoder", "all")
    assert "--limit 0" in fails(capsys, bundle, "--task", file, "--limit", "0")
    assert "--num-shots 0" in fails(capsys, bundle, "--task", file, "--shots", file, "--num-shots", "0")
    assert "--resume needs --out" in fails(capsys, bundle, "--task", file, "--resume")
    assert "folder does not exist" in fails(capsys, bundle, "--task", file, "--out", str(tmp_path / "no" / "x.json"))
    other = tmp_path / "own.jsonl"
    other.write_text('{"task": "t", "prompt": "p", "answer": "a"}\n')
    assert "no --task file has" in fails(capsys, bundle, "--task", file, "--shots", str(other))
    other.write_text(json.dumps({"task": "t", "prompt": "word " * CONTEXT, "answer": "a"}) + "\n")
    error = fails(capsys, bundle, "--task", file, "--task", str(other))
    assert f"{other}:1: its prompt has" in error and "1 of 17 prompts" in error and "--context" in error


@pytest.mark.parametrize(("field", "name"), [("tokenizer", "tokenizer"), ("chat", "chat template")])
def test_a_bundle_that_cannot_be_asked_is_named(
    asked: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, name: str
) -> None:
    bundle = write_bundle(tmp_path / "mute.dgemma", **ROOM, **{field: None})
    error = fails(capsys, str(bundle), "--task", asked[1])
    assert str(bundle) in error and f"has no {name}" in error
