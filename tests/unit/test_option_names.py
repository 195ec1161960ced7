"""Errors name an option as it was typed, a keyword as Python spells it, and a field as a request has it."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from fake_bundle import FakeEngine, fake_session, write_bundle

from dgemma.cli import COMMANDS, dispatch
from dgemma.core.errors import DgemmaError, Param, UsageError, blaming, listed
from dgemma.core.generate_options import GenerateKeywords, GenerateOptions
from dgemma.runtime import session as session_module

# command and bundle; options; how the line begins
RUN = [
    ("--engine x", "--engine 'x' is unknown; choose one of onnx, executorch"),
    ("--target x", "--target 'x' is unknown; "),
    ("--decoder x", "--decoder 'x': choose one of "),
    ("--loop x", "--loop 'x' is unknown; choose one of host, graph"),
    ("--seed -1", "--seed -1 must be between 0 and 2^64-1"),
    ("--max-new-tokens 0", "--max-new-tokens 0 must be an integer, 1 or more"),
    ("--fixed-steps --decoder autoregressive", "--fixed-steps needs --decoder diffusion: "),
    ("--loop graph --decoder autoregressive", "--loop needs --decoder diffusion: "),
    ("--early-commit 0", "--early-commit 0.0 must be a positive number of nats"),
    ("--early-commit 0.1 --loop graph", "--early-commit needs --loop host: "),
    ("--early-commit 0.1 --recheck --decoder autoregressive", "--early-commit and --recheck need --decoder diffusion: "),
    ("--start-width 65", "--start-width 65 must be auto, or at most the exported "),
    ("--start-width 8 --loop graph", "--start-width needs --loop host: "),
    ("--recheck", "--recheck runs positions that were committed early; give --early-commit or --start-width as well"),
    ("--speculate --loop graph", "--speculate needs --loop host: "),
    ("--temperature -1", "--temperature '-1' must be A or A:B"),
    (
        "--temperature 1 --loop graph",
        "this bundle's graph 'generate' was exported before it had inputs for --temperature (temperatures, ",
    ),
    ("--steps 0", "--steps 0 must be an integer, 1 or more"),
    ("--steps 999", "--steps 999 must be at most the exported "),
    ("--entropy-bound 0", "--entropy-bound '0' must be a positive number of nats, or A:B"),
    ("--min-tokens -1", "--min-tokens -1 must be an integer from 0 to --max-new-tokens, "),
    ("--min-tokens 3 --loop graph", "--min-tokens needs --decoder diffusion and --loop host: "),
    ("--min-tokens 3 --stop x", "--min-tokens cannot be combined with --stop, which can end it sooner; leave one out"),
    ("--profile none", "--profile none: cannot be read ("),
    ("--schedule x", "--schedule 'x' must be linear, cosine, or a .json or .toml file"),
    ("--schedule none.toml", "--schedule none.toml: cannot be read ("),
    (
        "--schedule cosine --loop graph",
        "this bundle's graph 'generate' was exported before it had inputs for --schedule (temperatures, ",
    ),
    (
        "--top-k 2 --loop graph",
        "--top-k cannot be combined with --loop graph: graph 'generate' returns no candidates; use host",
    ),
    ("--schedule cosine --decoder autoregressive", "--schedule needs --decoder diffusion: "),
    ("--entropy-bound 99", "this bundle was exported before --entropy-bound was supported; "),
    ("--top-k 0", "--top-k 0 must be an integer, 1 or more"),
    ("--top-k 4 --min-p 0.1", "this bundle was exported before --top-k and --min-p were supported; "),
    ("--top-p 0", "--top-p 0.0 must be a number above 0 and at most 1"),
    ("--min-p 2", "--min-p 2.0 must be a number above 0 and at most 1"),
    ("--logit-bias x", "--logit-bias 'x': must be ID=B, such as 17=-5 or 17=-inf"),
    ("--logit-bias 9999=1", "--logit-bias: id 9999 is outside the vocabulary of "),
    ("--ban ''", "--ban [''] must be ids or non-empty texts"),
    ("--ban 'Dear Anna, welcome'", "--ban 'Dear Anna, welcome' takes "),
    ("--logprobs 1", "--logprobs needs an output that can hold it; give --json or --json-lines as well"),
    ("--logprobs -1 --json", "--logprobs -1 must be an integer, 0 or more"),
    ("--logprobs 1 --json --speculate", "--logprobs cannot be combined with --speculate, "),
    ("--confidence nan", "--confidence nan must be a positive number of nats"),
    ("--stability -1", "--stability -1 must be an integer, 0 or more"),
    ("--steps 2 --stability 1 --decoder autoregressive", "--steps and --stability need --decoder diffusion: "),
    ("--stop ''", "--stop [''] must be non-empty strings"),
    ("--fallback x", "--fallback 'x' is unknown; choose autoregressive"),
    ("--fallback autoregressive --decoder autoregressive", "--fallback needs --decoder diffusion: "),
    ("--template x", "--template 'x' has no hole; "),
    ("--template {{3}} --stop x", "--template determines where the answer ends; leave --stop out"),
    ("--template {{3}} --start-width 8", "--template fills the whole canvas; leave --start-width out"),
    ("--template {{9999}}", "--template has holes of 9999 tokens, "),
    ("--guidance -1", "--guidance -1.0 must be a number from 0 to 100"),
    ("--guidance 2", "--guidance: this bundle has no 'denoise_guided' for onnx; "),
    ("--negative x", "--negative needs --guidance; give it as well, or leave this out"),
    ("--guidance 2 --guidance-steps a", "--guidance-steps 'a' must be A:B"),
    ("--regex a --choice 'a|b'", "give one of --regex, --json-schema, --grammar and --choice, not --regex and --choice"),
    ("--regex a", "this bundle was exported before --regex was supported; "),
    ("--tool-choice f", "--tool-choice needs tools, which --messages gives; give it, or leave --tool-choice out"),
    ("--regex a --stop x", "--regex determines what the answer is and where it ends; leave --stop out"),
    ("--regex a --loop graph", "--regex needs --decoder diffusion and --loop host: "),
    ("--regex a --top-k 2 --ban x", "--regex takes the likeliest ids that fit instead of drawing; leave --top-k and --ban out"),
    ("--json-schema '{\"type\": 1}'", "--json-schema takes a file, not JSON itself; write it into a file and name that"),
    ("--json-schema none", "--json-schema none: cannot be read ("),
    ("--structure none", "--structure none: cannot be read ("),
    ("--grammar none", "--grammar none: cannot be read ("),
    ("--grammar-depth 2", "--grammar-depth says how deep rules of a grammar nest; give --grammar as well, or leave it out"),
    ("--choice-probabilities", "--choice-probabilities needs an output that can hold it; give --json or --json-lines as well"),
    ("--choice-probabilities --json", "--choice-probabilities needs --choice; give them, or leave it out"),
    ("--choice a", "--choice 'a' is the only one; give 2 or more different texts"),
    ("--draft none", "--draft none: cannot be read ("),
    ("--strength 0", "--strength 0.0 must be a number above 0 and at most 1"),
    ("--strength 0.2", "--strength says how much of a draft is noise; give --draft as well, or leave it out"),
    ("--threads 0", "--threads 0 must be between 1 and 1024"),
    ("--system ''", "--system must be a non-empty string"),
    ("--system x", "this bundle does not support system turns; leave out --system"),
    ("--think", "this bundle does not support thinking; leave out --think"),
    ("--raw --think", "--raw skips the chat template, which --system, --think and tools need; leave it out"),
    ("--n 0", "--n 0 must be between 1 and 1000"),
    ("--n 2 --decoder autoregressive", "--n needs --decoder diffusion without --speculate: "),
    ("--n 2 --json-lines", "--n gives several answers, which --json-lines "),
    ("--trace x", "--trace x: must end in .npz"),
    ("--trace t.npz --decoder autoregressive", "--trace needs --decoder diffusion: "),
    ("--json --json-lines", "give --json or --json-lines, not both"),
    ("--messages none", "give either -p or --messages, not both"),
    ("--prompts none", "give either -p or --prompts, not both"),
    ("--prompt-ids x", "give either -p or --prompt-ids, not both"),
]
SHARED = {  # of run, which chat and eval have as well
    "--engine", "--loop", "--seed", "--max-new-tokens", "--early-commit", "--recheck", "--temperature", "--steps",
    "--entropy-bound", "--confidence", "--stability", "--fallback", "--threads", "--system", "--think", "--start-width",
}  # fmt: skip
SERVE = [
    ("--host 0.0.0.0", "--host 0.0.0.0 can be reached from other machines; give --api-key as well, or use 127.0.0.1"),
    ("--port 70000", "--port 70000 must be between 0 and 65535"),
    ("--api-key x", "--api-key must have 8 to 512 ASCII characters and no white space"),
    ("--engine x", "--engine 'x' is unknown; "),
    ("--threads 0", "--threads 0 must be between 1 and 1024"),
    ("--max-requests 0", "--max-requests 0 must be an integer, 1 or more"),
    ("--cache-memory 0", "--cache-memory 0 must be a positive number of GB"),
    ("--memory 0", "--memory 0 must be a positive number of GB"),
    ("--timeout 0", "--timeout 0.0 must be a positive number"),
    ("--cors-origin x", "--cors-origin 'x' must be a scheme and a host, "),
]
UNCHECKED = {
    "--adaptive",
    "--no-stream",
    "--allow-host",
    "--log-prompts",
    "--json",
    "--prompt",
    "--help",
}  # whose values all are possible


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("names") / "toy.dgemma")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "open_engine", lambda bundle, *_: FakeEngine(bundle, [200]))


def says(capsys: pytest.CaptureFixture[str], command: str) -> str:
    capsys.readouterr()
    assert dispatch(shlex.split(command)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err.removeprefix("error: ")


def real_engine(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are chosen by the real function."""
    from dgemma.runtime.engines import open_engine

    if option.startswith(("--engine", "--target")):
        monkeypatch.setattr(session_module, "open_engine", open_engine)


@pytest.mark.parametrize(("options", "begins"), RUN, ids=[row[0] for row in RUN])
def test_run_names_options_as_they_are_typed(
    bundle: Path, capsys: pytest.CaptureFixture[str], options: str, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_engine(options, monkeypatch)
    assert says(capsys, f"run {bundle} -p hi {options}").startswith(begins)


@pytest.mark.parametrize(("options", "begins"), SERVE, ids=[row[0] for row in SERVE])
def test_serve_names_options_as_they_are_typed(
    bundle: Path, capsys: pytest.CaptureFixture[str], options: str, begins: str
) -> None:
    assert says(capsys, f"serve {bundle} {options}").startswith(begins)


@pytest.mark.parametrize(("options", "begins"), [row for row in RUN if set(re.findall(r"--[a-z-]+", row[0])) <= SHARED])
def test_chat_names_options_as_run_does(
    bundle: Path, capsys: pytest.CaptureFixture[str], options: str, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_engine(options, monkeypatch)
    lines = iter(["hi"])
    monkeypatch.setattr("builtins.input", lambda: next(lines))
    assert says(capsys, f"chat {bundle} {options}").startswith(begins)


def test_the_tables_hold_every_option() -> None:
    for name, table in (("run", RUN), ("serve", SERVE)):
        app = typer.Typer(add_completion=False)
        app.command(name)(import_module(COMMANDS[name][0]).run)
        options = {max(one.opts, key=len) for one in typer.main.get_command(app).params if one.param_type_name == "option"}
        checked = {option for row in table for option in re.findall(r"--[a-z-]+", row[0])}
        assert options - UNCHECKED <= checked


@pytest.mark.parametrize(
    ("keywords", "begins", "param"),
    [
        ({"max_steps": 0}, "max_steps 0 must be", "max_steps"),
        ({"max_new_tokens": 0}, "max_new_tokens 0 must be", "max_new_tokens"),
        ({"recheck": True}, "recheck runs positions that were committed early; give early_commit or start_width", "recheck"),
        ({"adaptive": False, "decoder": "autoregressive"}, "adaptive needs decoder diffusion: ", "adaptive"),
        ({"template": "{{3}}", "draft": "x"}, "give template or draft, not both", "template"),
        ({"tools": [1]}, "tool 1: must be an object such as", "tools"),
    ],
)
def test_python_names_keywords(keywords: Any, begins: str, param: str) -> None:
    with pytest.raises(UsageError) as caught:
        GenerateOptions.of(**keywords)
    assert str(caught.value).startswith(begins) and caught.value.param == param


def test_every_keyword_of_python_is_an_option_of_run_or_has_its_name() -> None:
    app = typer.Typer(add_completion=False)
    app.command("run")(import_module(COMMANDS["run"][0]).run)
    names = {one.name for one in typer.main.get_command(app).params}
    assert GenerateKeywords.__annotations__.keys() - names == {"max_steps", "choices", "continue_", "tools"}


def test_a_prompt_is_blamed_where_nothing_else_is(tmp_path: Path) -> None:
    with fake_session(tmp_path / "b") as session:
        for given, param in (({"prompt": ""}, "prompt"), ({"messages": [{"role": "wizard"}]}, "messages")):
            with pytest.raises(DgemmaError) as caught:
                session.generate(**given)  # type: ignore[arg-type]
            assert caught.value.param == param


def test_parts_of_a_message() -> None:
    error = UsageError("give ", *listed(("a", "b", "c"), " or "), "; not a")
    assert str(error) == "give a, b or c; not a" and error.params == ("a", "b", "c") and error.param == "a"
    assert error.spelled({"a": "--a", "c": "--see"}) == "give --a, b or --see; not a"
    assert listed(("a",)) == ("", Param("a"))
    with pytest.raises(UsageError) as caught, blaming("x"):
        raise UsageError("wrong")
    assert caught.value.param == "x"
    with pytest.raises(UsageError) as caught, blaming("x"):
        raise UsageError(Param("y"), " is wrong")
    assert caught.value.param == "y"


def test_eval_refuses_options_of_canvases_without_them(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "task.jsonl"
    task.write_text('{"task": "t", "prompt": "x", "answer": "y"}\n')
    command = f"eval {bundle} --task {task} --decoder autoregressive"
    for option in ("--speculate", "--early-commit 0.1"):
        assert says(capsys, f"{command} {option}").startswith(
            f"--decoder autoregressive has no canvases; leave {option.split()[0]} out"
        )
