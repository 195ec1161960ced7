"""`run` and `chat` over a bundle that thinks and calls tools, and over one whose template has neither."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import released_folder
from cli_checks import fails
from fake_bundle import write_bundle
from speaking import CALL, CALLED, END, THINK, Speaker, _ids, write_speaking, write_text

from dgemma.cli import dispatch
from dgemma.cli.conversation import COMMANDS
from dgemma.runtime import session as session_module

THOUGHT = [THINK, *_ids("thought\nIn words, then."), END]


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the model answers, and in `engines` those that were opened."""
    state: dict[str, Any] = {"answer": [*THOUGHT, *_ids("Four.")], "engines": []}

    def open_engine(bundle: Any, engine: Any, threads: Any, target: Any) -> Speaker:
        made = Speaker(bundle, state["answer"], stop=106)
        state["engines"].append(made)
        return made

    monkeypatch.setattr(session_module, "open_engine", open_engine)
    return state


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("speaking")
    (place / "text").mkdir()
    return str(write_speaking(place / "b", write_text(place / "text", released_folder.template())))


def test_run_shows_text_alone(spoken: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["run", bundle, "-p", "4?", "--think", "--system", "Be brief."]) == 0
    assert capsys.readouterr() == ("Four.\n", "")
    assert dispatch(["run", bundle, "-p", "4?", "--think", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["text"], said["thinking"], said["tool_calls"]) == ("Four.", "In words, then.", [])


def test_run_says_why_there_is_no_answer(spoken: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["run", bundle, "-p", "4?", "--think", "--max-new-tokens", "5"]) == 0
    out, err = capsys.readouterr()
    assert out == "\n" and err.startswith("the thought took all 5 tokens") and err.count("\n") == 1


def test_run_takes_a_conversation_with_tools(
    spoken: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spoken["answer"] = [CALL, *_ids("call:f{n:1}"), CALLED]
    file = tmp_path / "talk.json"
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "4?"}]
    file.write_text(json.dumps({"messages": messages, "tools": [{"function": {"name": "f"}}]}), encoding="utf-8")
    assert dispatch(["run", bundle, "--messages", str(file)]) == 0
    assert capsys.readouterr() == ('f {"n": 1}\n', "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("[", "is not JSON"),
        ("{}", "messages must be a list"),
        ("[]", "messages must be a list"),
        ('[{"role": "user"}]', "message 1: content must be a string"),
        ('{"messages": [], "x": 1}', "unknown key 'x'"),
        ('{"messages": [{"role": "user", "content": "x"}], "tools": [1]}', "tool 1: must be an object"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_one_line(
    bundle: str, spoken: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None, says: str
) -> None:
    file = tmp_path / "talk.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert dispatch(["run", bundle, "--messages", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "talk.json" in err and says in err


def test_messages_and_a_prompt(bundle: str, spoken: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["run", bundle, "-p", "x", "--messages", "y"]) == 2
    assert "give either -p or --messages, not both" in capsys.readouterr().err


def test_chat_folds_thoughts_and_changes_turns(
    spoken: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "/think on\n/system Be brief.\n4?\nAnd now?\n/think off\n/think perhaps\n/system\n/help\n/nothing\n/reset\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert dispatch(["chat", bundle]) == 0
    out, err = capsys.readouterr()
    assert out == "Four.\nFour.\n"
    assert err.count("thought: In words, then.\n") == 2 and "conversation forgotten" in err
    told = [line for line in err.splitlines() if not line.startswith("thought: ")]
    assert told == [
        "thinking is on",
        "the system turn is set",
        "thinking is off",
        "/think takes on or off",
        "the system turn is removed",
        *(f"{name:<9} {what}" for name, what in COMMANDS.items()),
        "unknown command /nothing; /help lists the commands",
        "conversation forgotten",
    ]
    (engine,) = spoken["engines"]
    assert sum(engine.encoded) < 200  # the second turn goes on from what the first one encoded


def test_chat_drops_thoughts_of_earlier_turns(
    spoken: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[int]] = []
    monkeypatch.setattr(sys, "stdin", io.StringIO("4?\nAnd now?\n"))
    generate = session_module.Session.generate

    def spy(self: Any, *args: Any, **keywords: Any) -> Any:
        result = generate(self, *args, **keywords)
        prompts.append(list(self.prefix_ids[: -len(result.tokens) - 1]))
        return result

    monkeypatch.setattr(session_module.Session, "generate", spy)
    assert dispatch(["chat", bundle, "--think"]) == 0
    assert [prompt.count(THINK) for prompt in prompts] == [0, 0] and len(prompts[1]) > len(prompts[0])


def test_a_template_without_them(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = str(write_bundle(tmp_path / "plain"))
    for option, says in ((["--think"], "leave out --think"), (["--system", "x"], "leave out --system")):
        for command in (["run", plain, "-p", "x"], ["chat", plain]):
            assert dispatch([*command, *option]) == 2
            assert says in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("/think on\nhi\n"))
    assert dispatch(["chat", plain]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and err == "this bundle does not support thinking\n"


def test_inspect_lists_what_a_chat_may_hold(
    toy: dict[str, Any], bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, has in ((bundle, "user, assistant, system, thinking, tools"), (write_bundle(tmp_path / "p"), "user, assistant")):
        assert dispatch(["inspect", str(path)]) == 0
        assert f"chat          {has}" in capsys.readouterr().out.splitlines()


def test_a_call_can_be_forced(bundle: str, spoken: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spoken["answer"] = _ids("No.")
    file = tmp_path / "ask.json"
    messages = [{"role": "user", "content": "4?"}]
    file.write_text(json.dumps({"messages": messages, "tools": [{"function": {"name": "f"}}, {"function": {"name": "g"}}]}))
    ask = ["run", bundle, "--messages", str(file), "--json"]
    assert dispatch(ask) == 0 and json.loads(capsys.readouterr().out)["text"] == "No."
    assert dispatch([*ask, "--tool-choice", "g"]) == 0
    (call,) = json.loads(capsys.readouterr().out)["tool_calls"]
    assert call["function"] == {"name": "g", "arguments": {}}
    fails(capsys, [*ask, "--tool-choice", "h"], "--tool-choice 'h' is no tool; choose one of auto, required, f, g")
    fails(capsys, [*ask, "--tool-choice", "f", "--regex", "a"], "--tool-choice makes the answer a call; leave --regex out")
    fails(capsys, ["run", bundle, "-p", "x", "--tool-choice", "f"], "--tool-choice needs tools, which --messages gives")


def test_a_chat_can_have_tools(
    bundle: str,
    spoken: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    spoken["answer"] = _ids("No.")
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([{"function": {"name": "f"}}, {"function": {"name": "g"}}]))
    for choice, says in (("auto", "No.\nNo.\n"), ("g", "g {}\ng {}\n")):
        monkeypatch.setattr(sys, "stdin", io.StringIO("4?\nAnd now?\n"))
        assert dispatch(["chat", bundle, "--tools", str(file), "--tool-choice", choice]) == 0
        assert capsys.readouterr().out == says
    ask = ["chat", bundle, "--tools", str(file)]
    fails(capsys, [*ask, "--tool-choice", "h"], "--tool-choice 'h' is no tool; choose one of auto, required, f, g")
    fails(capsys, ["chat", bundle, "--tool-choice", "f"], "--tool-choice needs --tools; give it")
    fails(capsys, ["chat", str(write_bundle(tmp_path / "plain")), "--tools", str(file)], "does not support tools")
    file.write_text('[{"function": {}}]')
    fails(capsys, ask, f"--tools {file}: tool 1: must be an object such as")
    file.write_text("{")
    fails(capsys, ask, f"--tools {file}: is not JSON in UTF-8; write a list of declarations")
