"""`dgemma chat`: turns, commands, saved conversations, the line editor."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_checks import ANSWER, text_of
from fake_bundle import FakeEngine, fake_engine, fake_session, write_bundle
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from dgemma.cli import chat as chat_command
from dgemma.cli import dispatch
from dgemma.cli.chat import DEFAULT
from dgemma.cli.conversation import COMMANDS, Conversation
from dgemma.core.messages import Message


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(write_bundle(tmp_path / "toy.dgemma"))


def chat(bundle: str, lines: str, monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return dispatch(["chat", bundle, *args])


def test_chat(
    toy: dict[str, Any], bundle: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(bundle, "hi\n\n/reset\nhello\n/dance\n/exit\nnever\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == 2 * (text_of(ANSWER, tmp_path / "t") + "\n")
    assert "conversation forgotten" in err and "unknown command /dance" in err
    assert chat(bundle, "hi", monkeypatch) == 0  # the end of input ends the chat
    assert chat(bundle, "hi\n", monkeypatch, "--max-new-tokens", "3") == 0
    assert "cut after 3 tokens" in capsys.readouterr().err


def test_chat_says_when_the_context_is_full(
    toy: dict[str, Any], bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy["answer"] = [200] * 500
    assert chat(bundle, "hi\nmore\n/reset\nhi\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 2
    assert err.count("the answer ends here") == 2 and err.count("the context is full: ") == 1 and err.count("/reset") >= 2


def test_ctrl_c_in_a_chat_takes_the_turn_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = fake_session(tmp_path / "b", ANSWER)
    talk = Conversation(session, DEFAULT)
    talk.answer("hi")
    before, calls = session.prefix_ids, 0
    denoise = FakeEngine._denoise

    def interrupt(self: FakeEngine, feeds: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # in the second canvas
            raise KeyboardInterrupt
        return denoise(self, feeds)

    monkeypatch.setattr(FakeEngine, "_denoise", interrupt)
    assert talk.answer("more") is None
    assert session.prefix_ids == before and "taken back" in capsys.readouterr().err
    assert talk.answer("more") is not None
    assert fake_engine(session).encoded


def test_ctrl_c_is_heard_from_the_first_moment_on(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal that comes before the first step, as while graphs are loaded, ends the turn and not the chat."""
    prepare = FakeEngine.prepare

    def interrupted(self: FakeEngine, *graphs: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        prepare(self, *graphs)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "prepare", interrupted)
        assert talk.answer("hi") is None
    assert talk.session.prefix_ids == () and talk.turns == [] and "taken back" in capsys.readouterr().err
    assert talk.answer("hi") is not None, "the cancel is gone"


@pytest.fixture
def talk(tmp_path: Path) -> Conversation:
    return Conversation(fake_session(tmp_path / "b", ANSWER), DEFAULT)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/seed 7", "the seed is 7"),
        ("/seed x", "/seed takes a number from 0 to 2^64-1"),
        ("/seed 18446744073709551616", "/seed takes a number"),
        ("/decoder autoregressive", "the decoder is autoregressive"),
        ("/decoder fast", "/decoder takes diffusion or autoregressive"),
        ("/think maybe", "/think takes on or off"),
        ("/stats", "0 of "),
        ("/save", "nothing to save"),
        ("/load", "/load takes a file"),
        ("/load none.json", "cannot be read"),
        ("/dance now", "unknown command /dance"),
    ],
)
def test_commands_say_what_they_did(talk: Conversation, line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    talk.command(line)
    out, err = capsys.readouterr()
    assert says in err and err.count("\n") == 1 and out == ""


def test_help_lists_every_command(talk: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    talk.command("/help")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)


def test_what_commands_change_changes_answers(talk: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    talk.command("/seed 7")
    assert talk.options.seed == 7
    first = talk.answer("hi")
    assert first is not None and talk.options.seed == 8 and first.loop == "host"
    talk.command("/decoder autoregressive")
    second = talk.answer("more")
    assert second is not None and second.loop == "decode"
    talk.command("/stats")
    assert "decode" in capsys.readouterr().err and len(talk.turns) == 4
    talk.command("/reset")
    assert talk.turns == [] and talk.session.prefix_ids == ()


def test_a_saved_conversation_goes_on(talk: Conversation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "talk.json"
    talk.answer("hi")
    talk.command(f"/save {file}")
    assert "2 messages saved" in capsys.readouterr().err
    turns = json.loads(file.read_text())["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] and turns[1]["content"] == talk.turns[1].content
    talk.answer("more")
    talk.command(f"/save {file}")  # its own file may be written again
    other = Conversation(fake_session(tmp_path / "c", ANSWER), DEFAULT)
    other.command(f"/load {file}")
    assert "4 messages loaded" in capsys.readouterr().err and other.turns == talk.turns
    other.answer("again")
    assert len(other.turns) == 6
    with_file, alone = other.session.prefix_ids, Conversation(fake_session(tmp_path / "d", ANSWER), DEFAULT)
    alone.answer("again")
    assert len(with_file) > len(alone.session.prefix_ids), "what was loaded is in the prefix"
    alone.command(f"/save {file}")
    assert "exists already" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([{"role": "user", "content": "x"}], "does not end with an answer"),
        ([{"role": "system", "content": "x"}], "does not end with an answer"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"function": {"name": "f"}}]}, "declares tools"),
        (
            [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
            "system",
        ),
        ([], "at least one object"),
        ("x", "at least one object"),
    ],
)
def test_what_cannot_be_loaded_changes_nothing(
    talk: Conversation, values: object, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk.turns = [Message(role="user", content="kept")]
    (tmp_path / "bad.json").write_text(json.dumps(values))
    talk.command(f"/load {tmp_path / 'bad.json'}")
    assert says in capsys.readouterr().err and len(talk.turns) == 1


def test_a_model_of_single_turns_begins_afresh(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Reverse the word table.\nReverse the word table.\n"))
    assert dispatch(["chat", "tiny"]) == 0
    out, err = capsys.readouterr()
    assert out == "elbat\nelbat\n" and "single turns" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("/load x.json\n"))
    assert dispatch(["chat", "tiny"]) == 0
    assert "it cannot continue a conversation" in capsys.readouterr().err


def test_the_line_editor(capsys: pytest.CaptureFixture[str]) -> None:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        read = chat_command._editor()
        keys.send_text("helo\x1b[Dl\r")  # left, and a letter in between
        assert read() == "hello"
        keys.send_text("one\x1b\rtwo\r")
        assert read() == "one\ntwo"
        keys.send_text("\x1b[A\x1b[A\x1b[A\r")  # up, to the message before the last
        assert read() == "hello"
        keys.send_text("mistake\x03/system TEXT\r")
        assert read() == "/system TEXT"
        keys.send_text("\x04")
        assert read() is None
    assert "Ctrl-D ends the chat" in capsys.readouterr().err
