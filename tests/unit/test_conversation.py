"""Sessions of a bundle whose template has roles, thinking and tools, and how answers are read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import released_folder
from fake_bundle import N
from hypothesis import given, settings
from hypothesis import strategies as st
from speaking import CALL, CALLED, END, QUOTE, STOP, THINK, Speaker, read_template, write_speaking, write_text

from dgemma.core import gemma_tools
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.manifest import ChatTemplate
from dgemma.core.messages import Message, ToolCall, read_messages
from dgemma.runtime.answer import AnswerReader
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.prompt import Prompts, conversation_ids, without_thoughts
from dgemma.runtime.result import StepEvent
from dgemma.runtime.session import Session
from dgemma.runtime.tokenizer import HuggingFaceTokenizer

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "description": "d"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"), released_folder.template())


@pytest.fixture(scope="module")
def chat(folder: Path) -> ChatTemplate:
    return read_template(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(str(folder / "tokenizer.json"), [])


@pytest.fixture
def reader(tokenizer: HuggingFaceTokenizer, chat: ChatTemplate) -> AnswerReader:
    return AnswerReader(tokenizer, chat.roles)


class Speaking:
    """A session whose model gives a fixed answer."""

    def __init__(self, session: Session, engine: Speaker) -> None:
        self.session, self.engine = session, engine

    def ask(self, answer: Sequence[int], messages: Sequence[dict[str, Any] | Message], **keywords: Any) -> Any:
        given = [m if isinstance(m, Message) else Message(role=m["role"], content=m["content"]) for m in messages]
        if keywords.get("system"):
            given = [Message(role="system", content=keywords["system"]), *given]
        tokenizer = self.session.tokenizer
        assert tokenizer is not None
        more = {key: keywords[key] for key in ("think", "tools") if key in keywords}
        self.engine.answer = list(answer)
        self.engine.begin = len(conversation_ids(self.session.manifest, tokenizer, given, **more))
        return self.session.generate(messages=messages, **keywords)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Bundle:
    return Bundle.open(write_speaking(tmp_path_factory.mktemp("bundle") / "b", folder))


@pytest.fixture
def speaking(bundle: Bundle) -> Speaking:
    engine = Speaker(bundle, stop=STOP)
    return Speaking(Session(bundle, engine), engine)


def test_the_manifest_keeps_the_pieces(speaking: Speaking, chat: ChatTemplate) -> None:
    assert speaking.session.manifest.chat == chat


USER = {"role": "user", "content": "Write 4271."}


def test_a_thought_is_not_text(speaking: Speaking, tokenizer: HuggingFaceTokenizer) -> None:
    """Longer than a canvas, so that its markers lie in two of them; no event ever shows one."""
    thought = tokenizer.encode("thought\nFour, two, seven and one: so it is a number of four digits.")
    answer = [THINK, *thought, END, *tokenizer.encode("Four two seven one.")]
    assert len(thought) > 2 * N
    seen: list[tuple[str, str]] = []
    result = speaking.ask(answer, [USER], think=True, on_step=lambda event: seen.append((event.text(), event.thinking())))
    assert result.text == "Four two seven one." and result.stop_reason == "stop" and result.warnings == ()
    assert result.thinking == "Four, two, seven and one: so it is a number of four digits."
    assert result.tokens == tuple(answer) and result.canvases > 2
    assert seen and not any("channel" in text or "thought\n" in text for text, _ in seen)
    assert any(thinking and not text for text, thinking in seen)
    plain = result.to_dict()
    assert (plain["thinking"], plain["tool_calls"], plain["warnings"]) == (result.thinking, [], [])


def test_a_thought_that_takes_all_tokens_is_said(speaking: Speaking, tokenizer: HuggingFaceTokenizer) -> None:
    answer = [THINK, *tokenizer.encode("thought\n" + "and so on " * 20)]
    result = speaking.ask(answer, [USER], think=True, max_new_tokens=20)
    assert result.text == "" and result.stop_reason == "length" and result.thinking.startswith("and so on")
    (said,) = result.warnings
    assert "the thought took all 20 tokens, so there is no answer; allow more tokens, or leave" in said


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [([THINK, 591, 574], "the model ended inside its thought"), ([THINK, 591, END], "thought and then gave no answer")],
)
def test_why_an_answer_is_empty(speaking: Speaking, answer: list[int], phrase: str) -> None:
    result = speaking.ask(answer, [USER], think=True)
    assert result.text == "" and result.stop_reason == "stop" and phrase in result.warnings[0]


def test_a_conversation_with_tools(speaking: Speaking, tokenizer: HuggingFaceTokenizer) -> None:
    call = [CALL, *tokenizer.encode("call:f{town:"), QUOTE, *tokenizer.encode("a}b"), QUOTE, *tokenizer.encode(",n:3}"), CALLED]
    speaking.engine.stop = 50
    seen: list[str] = []

    def see(event: StepEvent) -> None:
        if event.kinds()[-1] == "call" and CALLED not in event.argmax:
            seen.append(event.text())

    result = speaking.ask(call, [USER], tools=[TOOL], on_step=see)
    assert seen and not any("call:" in text for text in seen), "a call that has no end yet is no text"
    assert result.text == "" and result.stop_reason == "stop" and result.warnings == ()
    assert result.tool_calls == (ToolCall(name="f", arguments={"town": "a}b", "n": 3}, id="call_0"),)
    held = list(speaking.session.prefix_ids)
    assert held[-1] == 50
    speaking.engine.stop, encoded = STOP, sum(speaking.engine.encoded)
    turns = [Message(**USER), result.message, Message(role="tool", content="cold", tool_call_id="call_0")]
    second = speaking.ask(tokenizer.encode("It is cold."), turns, tools=[TOOL], continue_=True)
    assert second.text == "It is cold."
    assert sum(speaking.engine.encoded) - encoded < len(held), "what the prefix held was encoded again"
    assert json.loads(json.dumps(result.to_dict()))["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": {"town": "a}b", "n": 3},
    }


def test_going_on_drops_thoughts(speaking: Speaking, tokenizer: HuggingFaceTokenizer, chat: ChatTemplate) -> None:
    """A text prompt goes on from a prefix without them; a whole conversation gives the same ids."""
    answer = [THINK, *tokenizer.encode("thought\nhm\n"), END, *tokenizer.encode("Four.")]
    first = speaking.ask(answer, [USER])
    turns: list[Any] = [USER, first.message, {"role": "user", "content": "And now?"}]
    second = speaking.ask([600], turns, continue_=True)
    whole = list(speaking.session.prefix_ids)
    assert second.tokens == (600,) and whole.count(THINK) == 1  # the empty one of the last answer
    speaking.ask(answer, [USER])
    speaking.engine.answer, speaking.engine.begin = [600], len(whole) - 2
    speaking.session.generate("And now?", continue_=True)
    assert list(speaking.session.prefix_ids) == whole
    assert chat.roles is not None and chat.roles.channel is not None
    assert without_thoughts([1, THINK, 5, END, 2, THINK, 3], chat.roles.channel) == [1, 2]


def test_a_system_turn_and_thinking_reach_the_prompt(speaking: Speaking) -> None:
    speaking.ask([600], [USER], system="Be brief.", think=True)
    assert speaking.session.tokenizer is not None
    ids = list(speaking.session.prefix_ids)
    assert ids[:2] == [2, 105] and ids.count(98) == 1 and ids.count(THINK) == 0
    assert "Be brief." in speaking.session.tokenizer.decode(ids)


def test_a_negative_prompt_keeps_the_system_turn_and_the_tools(bundle: Bundle, tokenizer: HuggingFaceTokenizer) -> None:
    prompts, asked, other = Prompts(bundle, tokenizer), Message(role="user", content="x"), Message(role="user", content="y")
    system = Message(role="system", content="Be brief.")

    def ids(messages: Sequence[Message] | None, **more: Any) -> Sequence[int]:
        found = prompts.with_negative(GenerateOptions.of(guidance=2, negative="y", **more), messages).guidance
        assert found is not None and not isinstance(found.negative, str) and found.negative is not None
        return list(found.negative)

    whole = conversation_ids(bundle.manifest, tokenizer, [system, other])
    assert ids([system, asked]) == ids(None, system="Be brief.") == ids([asked], system="Be brief.") == whole
    assert ids([asked]) == ids(None) == conversation_ids(bundle.manifest, tokenizer, [other])
    assert ids([system, asked], tools=[TOOL]) == conversation_ids(bundle.manifest, tokenizer, [system, other], tools=[TOOL])


@pytest.mark.parametrize(
    ("keywords", "phrase"),
    [
        ({}, "give either prompt or messages"),
        ({"prompt": "x", "messages": [USER]}, "give either prompt or messages"),
        ({"messages": []}, "messages must be a list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 1: role 'robot' is unknown; choose one of system"),
        ({"messages": [{"role": "user"}]}, "message 1: content must be a string"),
        ({"messages": [{"role": "user", "content": "x", "say": 1}]}, "message 1: unknown key 'say'"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "message 2: a tool's result must follow"),
        ({"messages": [{"role": "system", "content": "x"}, USER], "system": "y"}, "begin with a system turn; leave system out"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "arguments of 'f' must be an object",
        ),
        ({"prompt": "x", "system": " "}, "system must be a non-empty string"),
        ({"prompt": "x", "think": 1}, "think 1 must be True or False"),
        ({"prompt": "x", "tools": [{"name": "f"}]}, "tool 1: must be an object such as"),
        ({"prompt": "x", "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": 1}}}}]}, "every property"),
        ({"prompt": "x", "tools": [{"function": {"name": "f", "x": {1}}}]}, "tool 1: must hold only JSON values"),
        ({"prompt": "x", "tools": [{"function": {"name": "f", "response": 5}}]}, "tool 1: response must be an object"),
        ({"prompt": "x", "tools": [{"function": {"name": "f", "parameters": {"type": 5}}}]}, "a string, or a list of them"),
        ({"prompt": "x", "tools": [{"function": {"name": "f", "parameters": {"type": []}}}]}, "a string, or a list of them"),
        ({"prompt": "x", "tools": [{"function": {"name": "f", "parameters": {"type": ["null", 5]}}}]}, "or a list of them"),
        (
            {"prompt": "x", "tools": [{"function": {"name": "f", "response": {"description": 105}}}]},
            "of the response must be a",
        ),
        ({"prompt": "x", "system": "y", "raw": True}, "raw skips the chat template"),
        ({"messages": [USER], "raw": True}, "raw skips the chat template"),
        ({"prompt": [5], "think": True}, "ids are used as they are"),
        ({"prompt": "x", "think": True, "continue_": True}, "give the whole conversation as messages"),
    ],
)
def test_what_cannot_be_is_said(speaking: Speaking, keywords: dict[str, Any], phrase: str) -> None:
    with pytest.raises(UsageError) as raised:
        speaking.session.generate(**keywords)
    assert phrase in str(raised.value) and "\n" not in str(raised.value)


CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("call:f{}", "f", {}),
    ("call:a.b-c{x:1,y:-2.5,z:1e3}", "a.b-c", {"x": 1, "y": -2.5, "z": 1000.0}),
    ("call:f{a:true,b:false,c:null,d:None,e:word two}", "f", {"a": True, "b": False, "c": None, "d": None, "e": "word two"}),
    ("call:f{s:|a,b:{c}]|,t:||}", "f", {"s": "a,b:{c}]", "t": ""}),
    ("call:f{l:[],m:[1,[|x|]],o:{},p:{q:{r:|s|}}}", "f", {"l": [], "m": [1, ["x"]], "o": {}, "p": {"q": {"r": "s"}}}),
    (" call:f{ |key| : 1 , b : [ 2 ] } ", "f", {"key": 1, "b": [2]}),
    ("call:f{id:007,v:1.2.3}", "f", {"id": "007", "v": "1.2.3"}),
]
MALFORMED = (
    "", "call:", "call:f", "f{}", "call:f{a}", "call:f{a:}", "call:f{a:1", "call:f{a:1}}", "call:f{a:1,}", "call:f{a:[1,]}",
    "call:f{a:1,a:2}", "call:f{a:|x}", "call:f{a:|x|y}", "call:f{} and more", "call:f{a:[1}", "call:f{:1}", "call: f{}",
    "call:f{a:" + "[" * 80 + "]" * 80 + "}",
)  # fmt: skip


@pytest.mark.parametrize(("text", "name", "arguments"), CALLS)
def test_calls(text: str, name: str, arguments: dict[str, Any]) -> None:
    assert gemma_tools.read_call(text.split("|")) == (name, arguments)


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_calls_are_text(reader: AnswerReader, tokenizer: HuggingFaceTokenizer, text: str) -> None:
    ids: list[int] = [CALL]
    for number, part in enumerate(text.split("|")):
        ids += [*([QUOTE] if number else []), *tokenizer.encode(part)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = reader.read([*tokenizer.encode("Look: "), *ids, CALLED])
    assert answer.tool_calls == () and answer.text == ("Look: " + text.replace("|", '"')).strip()
    assert len(answer.warnings) == 1 and "is left in the text" in answer.warnings[0]
    assert reader.read([CALL, *tokenizer.encode("call:f{}")]).warnings == (
        "a tool call cannot be read (it has no end) and is left in the text",
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text("ab{}[],:|\"' \n<é", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcXYZ_", min_size=1, max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("abcXYZ_", min_size=1, max_size=4), JSON, max_size=4))
def test_what_is_written_is_read(arguments: dict[str, Any]) -> None:
    texts = [""]
    for part in gemma_tools.Writer(quote=QUOTE, null="null").call("f", arguments):
        if isinstance(part, int):
            texts.append("")
        else:
            texts[-1] += part
    assert gemma_tools.read_call(texts) == ("f", arguments)


@pytest.mark.parametrize(
    ("parts", "text", "thinking", "thinks"),
    [
        (["Hi."], "Hi.", "", False),
        ([" Hi. "], " Hi. ", "", False),
        ([THINK, "thought\n", END, "Hi."], "Hi.", "", False),
        ([THINK, "thought\nA.\n", END, "\n\nHi. "], "Hi.", "A.", False),
        ([THINK, "thought\nA.", END, "One.", THINK, "thought\nB.", END, " Two."], "One. Two.", "A.\nB.", False),
        (["One.", THINK, "other\nA.", END], "One.", "other\nA.", False),
        ([THINK, "thoughtful", END, "Hi."], "Hi.", "thoughtful", False),
        ([THINK, "thought"], "", "", True),
        ([THINK], "", "", True),
        ([THINK, "thought\nA", THINK, "B"], "", "AB", True),
        ([END, "Hi."], "Hi.", "", False),
        (["a", CALLED, "b"], "ab", "", False),
        ([THINK, "thought\nA", CALL, "call:f{}", CALLED], "", "A", False),
        ([], "", "", False),
    ],
)
def test_channels(
    reader: AnswerReader, tokenizer: HuggingFaceTokenizer, parts: list[int | str], text: str, thinking: str, thinks: bool
) -> None:
    ids = [i for part in parts for i in ([part] if isinstance(part, int) else tokenizer.encode(part))]
    answer = reader.read(ids)
    assert (answer.text, answer.thinking, answer.thinks) == (text, thinking, thinks)
    assert len(answer.tool_calls) == parts.count(CALL)


def test_an_answer_that_begins_inside_a_thought(reader: AnswerReader, tokenizer: HuggingFaceTokenizer) -> None:
    assert reader.opens_inside([105, THINK, 591]) and not reader.opens_inside([105, THINK, 591, END, 7])
    assert not reader.opens_inside([])
    answer = reader.read([*tokenizer.encode("A."), END, *tokenizer.encode("B.")], inside=True)
    assert (answer.text, answer.thinking) == ("B.", "A.")


PIECES = st.lists(st.sampled_from([THINK, END, CALL, CALLED, QUOTE, 98, 105, 510, 520, 530, 540, 600, 250, 470]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(PIECES, st.lists(st.integers(0, 40), max_size=4), st.booleans())
def test_no_split_and_no_order_of_markers_fails(ids: list[int], cuts: list[int], inside: bool) -> None:
    """Kinds of a beginning are those of the whole, wherever a canvas ends; markers are never text."""
    reader = _READER[0]
    whole = reader.kinds(ids, inside=inside)
    answer = reader.read(ids, inside=inside)
    for cut in cuts:
        assert reader.kinds(ids[:cut], inside=inside) == whole[:cut]
    for text in (answer.text, answer.thinking):
        assert not any(marker in text for marker in released_folder.SPECIAL.values())
    if not answer.warnings and not answer.tool_calls:
        held = [i for i, kind in zip(ids, whole, strict=True) if kind == "text"]
        assert answer.text.strip() == reader._tokenizer.decode(held).strip()


_READER: list[AnswerReader] = []


@pytest.fixture(autouse=True)
def one_reader(reader: AnswerReader) -> None:
    _READER[:] = [reader]


def test_text_parts_are_joined(speaking: Speaking) -> None:
    parts = [{"type": "text", "text": " Write "}, {"type": "text", "text": "4271. "}]
    (several,), (one,) = (
        read_messages([{"role": "user", "content": parts}]),
        read_messages([{"role": "user", "content": parts[:1]}]),
    )
    assert (several.content, one.content) == ("Write4271.", " Write ")
    assert speaking.session.generate(messages=[{"role": "user", "content": parts}]).tokens is not None
    for wrong, phrase in (
        (
            [*parts, {"type": "image_url", "image_url": {"url": "x"}}],
            "message 1: content part 3 has type 'image_url'; only text",
        ),
        (["x"], "message 1: content part 1 has type None"),
        ([{"type": "text"}], "message 1: text of content part 1 must be a string"),
        ([], "message 1: content must be a string"),
    ):
        with pytest.raises(UsageError, match=phrase):
            read_messages([{"role": "user", "content": wrong}])
