"""Statistics against known values, and the benchmarks' bookkeeping on a decoder that answers from a table."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from dgemma.benchmarks import report
from dgemma.benchmarks.bench.budget import Budget
from dgemma.benchmarks.bench.pairs import GROUPS, Prompt, Sample, paired_runs
from dgemma.benchmarks.bench.pairs import summarize as summarize_pairs
from dgemma.benchmarks.eval.figures import summarize
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import TASKS, read_items
from dgemma.benchmarks.stats import paired_difference, quartiles, wilson
from dgemma.benchmarks.studies.evaluate import evaluate, solved
from dgemma.core import machine
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.progress import progress
from dgemma.runtime.result import Result, Timings

# ---- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),  # published examples of Wilson's interval without continuity correction
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_published_intervals(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_not_the_normal_interval() -> None:
    low, high = wilson(20, 20)
    assert high == 1.0
    assert 0.8 < low < 0.9  # the normal interval would be [1, 1]


def test_wilson_of_nothing_says_nothing_and_of_nonsense_raises() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="between"):
        wilson(3, 2)


def test_paired_difference_counts_only_pairs_that_differ() -> None:
    a, b = [True] * 8 + [False] * 2, [True] * 9 + [False]
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(-0.1)
    assert (low + high) / 2 == pytest.approx(-0.1)
    assert high - low == pytest.approx(2 * 1.959964 * math.sqrt(1 - 1 / 10) / 10, rel=1e-5)
    assert paired_difference(a, a) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="length"):
        paired_difference([True], [])


def test_quartiles_are_inclusive() -> None:
    q = quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (q.q1, q.median, q.q3, q.n) == (2.0, 3.0, 4.0, 5)
    assert quartiles([7.0]).q3 == 7.0
    with pytest.raises(ValueError, match="no measurements"):
        quartiles([])


# ---- evaluation ------------------------------------------------------------------------------------------------------


def result(text: str, steps: int) -> Result:
    timings = Timings(load_s=0.5, prefill_s=0.0, denoise_s=1.0, commit_s=0.0, total_s=1.5, engine_s=1.0)
    return Result(
        text=text,
        tokens=(1, 2, 3, 4),
        steps=steps,
        canvases=1,
        position_forwards=8 * steps,
        prefill_position_forwards=3,
        stop_reason="stop",
        engine="onnx",
        loop="host",
        timings=timings,
    )


class Table:
    """Diffusion knows every answer of task `easy`; autoregressive decoding knows all of them."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def generate(self, prompt: str, options: GenerateOptions) -> Result:
        return result(f" {self.answers[prompt]}" if "easy" in prompt else "no", 2)

    def decode_greedy(self, prompt: str, *, max_new_tokens: int) -> Result:
        return result(self.answers[prompt], 5)


ITEMS = [EvalItem(task=task, prompt=f"{task} {i}", answer=f"a{i}") for task in ("easy", "hard") for i in range(5)]


def test_evaluation_counts_by_task_and_pooled() -> None:
    session = Table({item.prompt: item.answer for item in ITEMS})
    split, wrong = evaluate(session, ITEMS, seed=0, max_new_tokens=8, autoregressive=True)
    summary = summarize(split, solved(split))
    assert summary["tasks"]["easy"]["diffusion"]["exact"] == 1.0
    assert summary["tasks"]["hard"]["diffusion"]["exact"] == 0.0
    assert summary["tasks"]["hard"]["autoregressive"]["exact"] == 1.0
    everything = summary["pooled"]["all tasks"]["diffusion"]
    assert (everything["n"], everything["right"], everything["mean_steps"]) == (10, 5, 2.0)
    assert everything["tokens_per_forward"] == 2.0
    assert (everything["low"], everything["high"]) == wilson(5, 10)
    assert summary["pooled"]["solved tasks"]["tasks"] == ["easy"]
    assert summary["difference"]["all tasks"]["exact"] == -0.5
    assert summary["difference"]["solved tasks"]["exact"] == 0.0
    assert [w["task"] for w in wrong] == ["hard"] * 5
    json.dumps(summary, allow_nan=False)


def test_evaluation_without_the_baseline() -> None:
    session = Table({item.prompt: item.answer for item in ITEMS})
    split, _ = evaluate(session, ITEMS, seed=0, max_new_tokens=8, autoregressive=False)
    summary = summarize(split, solved(split))
    assert "autoregressive" not in summary["tasks"]["easy"]
    assert summary["difference"] == {}


def test_items_are_read_and_filtered(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps({"task": i.task, "prompt": i.prompt, "answer": i.answer}) + "\n\n" for i in ITEMS))
    assert read_items(file) == ITEMS
    assert [i.prompt for i in read_items(file, 2, ["hard"])] == ["hard 0", "hard 1"]
    with pytest.raises(UsageError, match="has no task 'x'"):
        read_items(file, tasks=["x"])


@pytest.mark.parametrize("line", ["{", "[]", '{"task": "a", "prompt": "b"}', "3"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"task": "a", "prompt": "b", "answer": "c"}\n' + line + "\n")
    with pytest.raises(UsageError, match=re.escape(f"{file}:2:")):
        read_items(file)


def test_the_committed_held_out_set_is_what_the_generator_writes() -> None:
    from dgemma.train.tiny.held_out import PER_TASK, lines

    assert TASKS.read_text(encoding="utf-8") == lines(PER_TASK, 0)
    assert lines(1, 1) != lines(1, 0)


# ---- speed -----------------------------------------------------------------------------------------------------------


def sample(tokens: int, seconds: float, steps: int = 2) -> Sample:
    return Sample(
        tokens=tokens,
        steps=steps,
        canvases=2,
        right=True,
        seconds=seconds,
        prefill_s=seconds / 4,
        denoise_s=seconds / 2,
        engine_s=seconds * 0.9,
    )


TWICE = Budget(seconds=1, repeats=2)


def test_paired_runs_take_turns_and_drop_the_warm_up() -> None:
    calls: list[str] = []

    def decoder(name: str, tokens: int) -> object:
        def decode(prompt: Prompt) -> Sample:
            calls.append(f"{name}{prompt.given}")
            return sample(tokens, 1.0)

        return decode

    decoders = {"diffusion": decoder("d", 8), "autoregressive": decoder("a", 2)}
    given = {"long": [Prompt(given="0"), Prompt(given="1")], "short": [Prompt(given="x")]}
    pairs = paired_runs(given, decoders, TWICE)  # type: ignore[arg-type]
    warm_up, first, second = ["d0", "a0"], ["d0", "a0", "dx", "ax", "a1", "d1"], ["a0", "d0", "ax", "dx", "d1", "a1"]
    assert calls == [*warm_up, *first, *second]
    assert {group: len(done) for group, done in pairs.items()} == {"long": 4, "short": 2}


def test_every_prompt_is_measured_when_the_time_is_over() -> None:
    decoders = dict.fromkeys(("diffusion", "autoregressive"), lambda prompt: sample(2, 1.0))
    given = {group: [Prompt(given="0"), Prompt(given="1")] for group in "ab"}
    assert {group: len(done) for group, done in paired_runs(given, decoders, Budget(seconds=1e-9)).items()} == {"a": 2, "b": 2}


def test_an_empty_answer_has_no_rate() -> None:
    decoders = {"diffusion": lambda prompt: sample(0, 1.0), "autoregressive": lambda prompt: sample(2, 1.0)}
    assert paired_runs({"a": [Prompt(given="0")]}, decoders, TWICE) == {"a": []}


def test_ratios_are_taken_pair_by_pair() -> None:
    pairs = [{"diffusion": sample(60, s), "autoregressive": sample(60, 5 * s)} for s in (1.0, 2.0, 10.0)]
    result = summarize_pairs(pairs)
    assert result["ratio"]["median"] == pytest.approx(5.0)
    assert result["total_ratio"] == pytest.approx(5.0)
    assert result["diffusion"]["tokens_per_forward"] == 30.0
    assert result["diffusion"]["host_share"]["median"] == pytest.approx(0.1)
    assert result["autoregressive"]["engine_share"] == pytest.approx(0.9)
    assert result["diffusion"]["step_ms"]["median"] == pytest.approx(500.0)
    assert result["diffusion"]["first_canvas_ms"]["median"] == pytest.approx(1e3 * (2 / 4 + 2 / 2 / 2))
    assert result["diffusion"]["steps_per_canvas"] == 1.0
    assert result["diffusion"]["decoding_tokens_per_s"]["median"] == pytest.approx(60 / 1.5)
    json.dumps(result, allow_nan=False)


def test_the_groups_are_tasks_of_the_held_out_set() -> None:
    present = {item.task for item in read_items(TASKS)}
    assert {task for tasks in GROUPS.values() for task in tasks} <= present


# ---- machine, output -------------------------------------------------------------------------------------------------


def test_machine_facts_are_plain_and_nameless() -> None:
    import platform

    text = json.dumps(machine.facts())
    assert "python" in machine.versions()
    for private in {platform.node(), str(Path.home()), str(Path.cwd())} - {""}:
        assert private not in text


def test_tables_are_plain_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    report.table("Title", ["task", "n"], [["a", "1"], ["bcde", "100"]])
    assert capsys.readouterr().out == "\nTitle\ntask    n\na       1\nbcde  100\n"


def test_progress_yields_everything_and_speaks_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(list(range(25)), "work")) == list(range(25))
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.splitlines()[-1] == "work: 25/25"
    assert len(streams.err.splitlines()) <= 11


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    report.write_json(out, {"a": 1})
    assert json.loads(out.read_text()) == {"a": 1}
    with pytest.raises(ValueError, match="JSON"):
        report.write_json(out, {"a": math.nan})
    assert json.loads(out.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    with pytest.raises(UsageError, match="folder does not exist"):
        report.check_out(tmp_path / "no" / "result.json")


def test_the_pages_of_results_are_what_the_committed_results_render(repo_root: Path) -> None:
    from dgemma.benchmarks.studies import pages

    assert pages.stale() == [], "run `python -m dgemma.benchmarks.studies.pages`"
    assert "| reverse | 100" in pages.render()["quality.md"]


def test_the_readme_has_the_figures_of_the_committed_results(repo_root: Path) -> None:
    from dgemma.benchmarks.studies import figures

    table = figures.table("docs/results/")
    assert table in (repo_root / "README.md").read_text(encoding="utf-8")
    assert table.count("\n") >= 8
