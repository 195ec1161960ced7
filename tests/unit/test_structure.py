"""Answers of a language: every one is valid, whatever the options, the canvases and the model's wishes."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_checks import fails
from fake_bundle import BOS, PAD, START, N, fake_session
from fake_structured import structured_session
from lark import Lark
from structures import REGEXES, WAYS

from dgemma.cli import dispatch
from dgemma.core.errors import EngineError, PromptTooLong, TokenizerError, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.structure import Structure
from dgemma.runtime.session import Session
from dgemma.runtime.structure.structured import StructuredCanvas

PROMPT = [BOS, 50, 51, START]


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return structured_session(tmp_path_factory.mktemp("wild") / "b", list(range(200, 240)), wildness=6.0)


@pytest.mark.parametrize("regex", REGEXES)
def test_answers_are_of_their_language(wild: Session, regex: str) -> None:
    for seed, options in enumerate(WAYS):
        result = wild.generate(PROMPT, regex=regex, seed=seed, **options)
        assert re.fullmatch(regex, result.text), (options, result.text)
        assert result.warnings == () or result.text == ""
        assert wild.tokenizer is not None and wild.tokenizer.decode(result.tokens) == result.text
        assert len(result.tokens) <= options.get("max_new_tokens", 256) and PAD not in result.tokens
        if options.get("trace"):
            assert result.trajectory is not None
            said = wild.visible(result.trajectory.argmax[-1])
            assert list(result.tokens[len(result.tokens) - len(said) :]) == said


def test_languages_without_structure_are_as_they_were(wild: Session) -> None:
    """The control: the same model breaks the language where nothing holds it."""
    assert not re.fullmatch("a{3,5}é", wild.generate(PROMPT, max_new_tokens=N).text)


def test_an_answer_goes_on_over_canvases(wild: Session) -> None:
    result = wild.generate(PROMPT, regex="(a|é){33}", max_new_tokens=40)
    assert result.canvases >= 3 and result.stop_reason == "stop" and len(result.text) == 33
    whole = wild.generate(PROMPT, regex="(a|é){32}", max_new_tokens=32)
    assert whole.canvases == 2 and whole.stop_reason == "length" and whole.text == "a" * 32  # é takes two tokens


def test_an_answer_ends_before_the_context_does(wild: Session) -> None:
    result = wild.generate(PROMPT, regex="[ab]*!", max_new_tokens=900)
    assert re.fullmatch("[ab]*!", result.text)
    with pytest.raises(PromptTooLong, match="regex takes at least 500 tokens"):
        wild.generate(PROMPT, regex="a{500}", max_new_tokens=900)


def test_schemas_and_choices(wild: Session) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"]}
    structure = Structure(json_schema=schema)
    for seed in range(3):
        found = json.loads(wild.generate(PROMPT, json_schema=schema, seed=seed).text)
        assert isinstance(found["a"], int) and found["b"] in "xy"
        assert json.loads(wild.generate(PROMPT, GenerateOptions(structure=structure, seed=seed)).text).keys() == found.keys()
        assert wild.generate(PROMPT, choices=["yes", "no", "may|be"], seed=seed).text in ("yes", "no", "may|be")
    assert wild.sample(PROMPT, n=3, choices=["yes", "no"]).votes.keys() <= {"yes", "no"}
    assert Structure(json_schema=json.dumps(schema)) == structure and hash(structure)


def test_what_a_model_wants_is_kept_where_it_fits(tmp_path: Path) -> None:
    session = structured_session(tmp_path / "b", [200, 201, 202])
    assert session.tokenizer is not None
    wanted = session.tokenizer.decode([200, 201, 202])
    assert session.generate(PROMPT).text == wanted
    assert session.generate(PROMPT, regex=".*").text == wanted
    assert session.generate(PROMPT, choices=["nothing like it", wanted]).text == wanted


NESTED = r"""
start: list
list: "[" [item ("," item)*] "]"
item: list | WORD
WORD: /[a-zé]{1,5}/
"""


def test_answers_follow_their_grammar(wild: Session) -> None:
    parser = Lark(NESTED)
    for seed, options in enumerate(WAYS):
        text = wild.generate(PROMPT, grammar=NESTED, grammar_depth=2, seed=seed, **options).text
        assert parser.parse(text) and "[[[[" not in text
    structure = Structure(grammar=NESTED)
    assert structure == Structure(grammar=NESTED, grammar_depth=4) != Structure(grammar=NESTED, grammar_depth=3)
    assert str(structure).startswith("grammar ") and structure.name == "grammar"


def test_a_real_model_follows_a_grammar() -> None:
    sums = 'start: sum\nsum: part | sum ("+" | "-") part\npart: NUMBER | "(" sum ")"\nNUMBER: /[0-9]+/'
    parser = Lark(sums)
    with Session.load("tiny", threads=1) as session:
        for seed, prompt in enumerate(("Add 17 and 25.", "Reverse the word table.", "Write 4271 in words.")):
            assert parser.parse(session.generate(prompt, grammar=sums, seed=seed, max_new_tokens=30).text)
        words = 'start: WORD ("," WORD)*\nWORD: /[a-z]+/'
        assert session.generate("Reverse the word table.", grammar=words).text == "elbat"


def test_cancelled_answers_say_that_they_are_a_beginning(wild: Session) -> None:
    def cancel(event: Any) -> None:
        if event.canvas_index == 1:
            wild.cancel()

    result = wild.generate(PROMPT, regex="a{33}", on_step=cancel)
    assert result.stop_reason == "cancelled" and result.text == "a" * len(result.text) and len(result.text) < 33
    assert result.warnings == ("the answer was cancelled, so it is only the beginning of a text that the regex allows",)


def test_a_text_that_is_not_of_its_language_is_an_error(wild: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StructuredCanvas, "held", lambda self, rows, out, accepted, canvas: (canvas, canvas))
    with pytest.raises(EngineError, match="does not follow the regex"):
        wild.generate(PROMPT, regex="a{3}")


def test_a_real_model_fills_the_form() -> None:
    with Session.load("tiny", threads=1) as session:
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
        }
        for seed, options in enumerate(({}, {"early_commit": 0.01}, {"max_steps": 1})):
            result = session.generate("As JSON: Paula from Zurich, age 30.", json_schema=schema, seed=seed, **options)
            found = json.loads(result.text)
            assert found.keys() == {"name", "age"} and isinstance(found["age"], int)
        assert session.generate("Reverse the word table.", choices=["chair", "elbat"]).text == "elbat"
        assert session.generate("Reverse the word table.", regex="[a-z]+").text == "elbat"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"regex": "a{41}", "max_new_tokens": 5}, "max_new_tokens 5 is less than the"),
        ({"regex": "a", "stop": "x"}, "leave stop out"),
        ({"regex": "a", "fallback": "autoregressive"}, "leave fallback out"),
        ({"regex": "a", "template": "{{2}}"}, "leave template out"),
        ({"regex": "a", "loop": "graph"}, "needs decoder diffusion and loop host"),
        ({"regex": "a", "decoder": "autoregressive"}, "needs decoder diffusion and loop host"),
        ({"regex": "a", "think": True}, "leave think out"),
        ({"regex": "a", "start_width": "auto"}, "leave start_width out"),
        ({"regex": "a", "speculate": True}, "leave speculate out"),
        ({"regex": "a", "top_k": 3, "logprobs": 1}, "leave top_k and logprobs out"),
        ({"regex": "a", "ban": [7]}, "leave ban out"),
        ({"regex": "a", "choices": ["a", "b"]}, "not regex and choices"),
        ({"regex": 3}, "regex 3 must be text"),
        ({"grammar": 3}, "grammar 3 must be text"),
        ({"grammar": "start: A", "grammar_depth": 101}, "grammar_depth 101 must be an integer from 0 to 100"),
        ({"grammar_depth": 3}, "give grammar as well, or leave it out"),
        ({"grammar": "start: A", "regex": "a"}, "not regex and grammar"),
        ({"grammar": 'start: "a"~40', "max_new_tokens": 5}, "max_new_tokens 5 is less than the"),
        ({"grammar": "start: A"}, "not defined"),
        ({"grammar": 'start: "a" start'}, "grammar: matches no text"),
        ({"grammar": 'start: "a"', "min_tokens": 3}, "leave min_tokens out"),
        ({"choices": ["a"]}, "2 or more different texts"),
        ({"choices": ["b", *["a" * 99] * 999]}, f"^choices have '{'a' * 60}' twice; give 2 or more different texts"),
        ({"choices": ["a", ""]}, "non-empty"),
        ({"choices": "ab"}, "must be a list"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": [1]}, "must be an object"),
        ({"json_schema": {"const": float("nan")}}, "json_schema is not JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(wild: Session, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        wild.generate(PROMPT, **options)


def test_a_language_is_checked_before_work(wild: Session) -> None:
    before = wild.prefix_ids
    with pytest.raises(UsageError, match="no look-around"):
        wild.generate(PROMPT, regex="(?=a)a")
    with pytest.raises(UsageError, match="no look-around"):
        wild.prompt_ids(PROMPT, GenerateOptions(structure=Structure(regex="(?=a)a")))
    with pytest.raises(UsageError, match="max_new_tokens 2"):
        wild.prompt_ids(PROMPT, GenerateOptions(structure=Structure(regex="é{30}"), max_new_tokens=2))
    assert wild.prefix_ids == before


def test_bundles_of_before_say_what_they_lack(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", [200])
    lacks = "likeliest" not in {spec.name for spec in session.bundle.graph("onnx", "denoise").outputs}
    assert lacks
    with pytest.raises(UsageError, match=r"was exported before regex was supported; export it again"):
        session.generate(PROMPT, regex="a")


def test_a_bundle_without_tokenizer_has_no_languages(tmp_path: Path) -> None:
    session = structured_session(tmp_path / "b", [200], tokenizer=None)
    with pytest.raises(TokenizerError, match="has no tokenizer, which regex needs"):
        session.generate(PROMPT, regex="a")


def test_sessions_on_one_engine_share_languages(wild: Session) -> None:
    assert wild.another()._languages is wild._languages
    assert wild._languages is not None
    structure = Structure(choices=["a", "b"])
    assert wild._languages.compiled(structure) is wild._languages.compiled(Structure(choices=["a", "b"]))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count()
    opened = lambda *_, **others: structured_session(tmp_path / str(next(numbers)), [200], wildness=6.0)  # noqa: E731
    monkeypatch.setattr(Session, "load", classmethod(opened))
    ask = ["run", str(tmp_path), "-p", "x"]
    assert dispatch([*ask, "--choice", "yes|no", "--choice", "perhaps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] in ("yes", "no", "perhaps")
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "integer", "minimum": 3, "maximum": 7}')
    assert dispatch([*ask, "--json-schema", str(schema)]) == 0
    assert capsys.readouterr().out.strip() in "34567"
    schema.write_text("{")
    fails(capsys, [*ask, "--json-schema", str(schema)], f"--json-schema {schema} is not JSON")
    fails(capsys, [*ask, "--json-schema", str(tmp_path / "none")], "--json-schema", "cannot be read")
    fails(capsys, [*ask, "--regex", "a", "--choice", "a|b"], "not --regex and --choice")
    grammar = tmp_path / "g.lark"
    grammar.write_text('start: "b" | "<" start ">"')
    assert dispatch([*ask, "--grammar", str(grammar), "--grammar-depth", "0"]) == 0
    assert capsys.readouterr().out.strip() in ("b", "<b>")
    grammar.write_text("start: (")
    fails(capsys, [*ask, "--grammar", str(grammar)], f"--grammar {grammar}: line 1, column 9 is not in Lark's form")
