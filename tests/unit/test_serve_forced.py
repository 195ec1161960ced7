"""`tool_choice` over the API: a call that is forced on a model which would rather say something else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from served import Served
from speaking import CALL, CALLED, QUOTE, _ids
from talking import Talker, talking

CLOCK: Any = {
    "name": "clock",
    "description": "Tells the time.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "maxLength": 9}, "digits": {"type": "integer", "minimum": 1, "maximum": 4}},
        "required": ["place", "digits"],
        "additionalProperties": False,
    },
}
RESET: Any = {"name": "reset"}
TOOLS: Any = [{"type": "function", "function": one} for one in (CLOCK, RESET)]
RESPONSE_TOOLS: Any = [{"type": "function", **one} for one in (CLOCK, RESET)]
NAMED: Any = {"type": "function", "function": {"name": "clock"}}
ASKED: Any = [{"role": "user", "content": "How late is it?"}]
ROME = [CALL, *_ids("call:clock{digits:2,place:"), QUOTE, *_ids("Rome"), QUOTE, *_ids("}"), CALLED]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with talking(tmp_path_factory.mktemp("forced")) as found:
        yield found


@pytest.fixture(autouse=True)
def says_no() -> None:
    Talker.said = _ids("No.")


def create(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="talker", **{"messages": ASKED, "tools": TOOLS, **more})


def follows(arguments: str) -> bool:
    found = json.loads(arguments)
    return found.keys() == {"place", "digits"} and len(found["place"]) <= 9 and found["digits"] in range(1, 5)


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_is_forced(client: openai.OpenAI, choice: Any) -> None:
    found = create(client, tool_choice=choice, n=3, seed=5)
    assert [one.index for one in found.choices] == [0, 1, 2]
    for one in found.choices:
        (call,) = one.message.tool_calls
        assert one.finish_reason == "tool_calls" and one.message.content is None
        assert call.function.name == "reset" or follows(call.function.arguments)
        assert call.function.name == "clock" or choice == "required"
    assert found.usage.completion_tokens > 3 and found.usage.prompt_tokens > 0 and found.usage.seed == 5
    assert len({one.message.tool_calls[0].id for one in found.choices}) == 3
    free = create(client)
    assert free.choices[0].message.content == "No." and free.usage.prompt_tokens == found.usage.prompt_tokens


def test_what_the_model_would_call_stays(client: openai.OpenAI) -> None:
    Talker.said = ROME
    found = create(client, tool_choice=NAMED, parallel_tool_calls=False)
    (call,) = found.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"place": "Rome", "digits": 2}
    assert found.usage.completion_tokens == len(ROME)


def test_a_forced_call_is_streamed(client: openai.OpenAI) -> None:
    Talker.said = ROME
    chunks = list(create(client, tool_choice="required", stream=True, stream_options={"include_usage": True}))
    parts = [part for chunk in chunks for choice in chunk.choices for part in choice.delta.tool_calls or []]
    assert json.loads("".join(part.function.arguments for part in parts)) == {"place": "Rome", "digits": 2}
    assert not any(choice.delta.content for chunk in chunks for choice in chunk.choices)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "tool_calls"
    assert chunks[-1].usage.completion_tokens == len(ROME)


def test_a_client_reads_arguments_into_its_own_class(client: openai.OpenAI) -> None:
    class clock(pydantic.BaseModel):  # the tool has the name of the class
        place: str = pydantic.Field(max_length=9)
        digits: int = pydantic.Field(ge=1, le=4)

    tool = openai.pydantic_function_tool(clock)
    assert tool["function"].get("strict") is True
    more: Any = {"messages": ASKED, "tools": [tool], "tool_choice": NAMED}
    found = client.chat.completions.parse(model="talker", **more)
    calls = found.choices[0].message.tool_calls
    assert calls is not None and isinstance(calls[0].function.parsed_arguments, clock)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "clock"}])
def test_responses_are_forced(client: openai.OpenAI, choice: Any) -> None:
    Talker.said = ROME
    more: Any = {"model": "talker", "input": "How late is it?", "tools": RESPONSE_TOOLS, "tool_choice": choice}
    found = client.responses.create(**more)
    (call,) = found.output
    assert call.type == "function_call" and json.loads(call.arguments) == {"place": "Rome", "digits": 2}
    assert found.status == "completed" and found.incomplete_details is None
    assert found.to_dict()["tool_choice"] == choice and found.usage is not None
    assert found.usage.output_tokens == len(ROME)
    with client.responses.stream(**more) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["function_call"] and "response.completed" in kinds
    assert not any("text" in kind for kind in kinds)


def allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_tools_are_restricted_to_those_that_are_allowed(client: openai.OpenAI) -> None:
    """As if no others were declared."""
    for seed in range(3):
        forced = create(client, tool_choice=allowed("required", "reset"), seed=seed)
        alone = create(client, tool_choice="required", tools=TOOLS[1:], seed=seed)
        assert [call.function.name for call in forced.choices[0].message.tool_calls] == ["reset"]
        assert forced.usage.prompt_tokens == alone.usage.prompt_tokens
    free = create(client, tool_choice=allowed("auto", "reset"))
    assert free.choices[0].message.content == "No." and free.usage.prompt_tokens == forced.usage.prompt_tokens
    assert create(client, tool_choice=allowed("auto", "reset", "clock")).usage.prompt_tokens > free.usage.prompt_tokens
    Talker.said = ROME
    choice: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]}
    more: Any = {"model": "talker", "input": "How late is it?", "tools": RESPONSE_TOOLS}
    found = client.responses.create(**more, tool_choice=choice)
    assert [item.type for item in found.output] == ["function_call"] and found.to_dict()["tool_choice"] == choice
    alone = client.responses.create(**{**more, "tools": RESPONSE_TOOLS[:1]}, tool_choice="required")
    assert found.usage is not None and alone.usage is not None
    assert found.usage.input_tokens == alone.usage.input_tokens


def test_a_call_that_fills_the_limit_is_complete(client: openai.OpenAI) -> None:
    Talker.said = ROME
    found = create(client, tool_choice=NAMED, max_tokens=len(ROME))
    assert found.choices[0].finish_reason == "tool_calls" and found.usage.completion_tokens == len(ROME)
    more: Any = {"tools": RESPONSE_TOOLS, "tool_choice": "required", "max_output_tokens": len(ROME)}
    assert client.responses.create(model="talker", input="x", **more).status == "completed"


OWN = ("regex", "think", "decoder")
OPEN = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "additionalProperties": {"type": "null"}}}}
]
STRICT = [{"type": "function", "function": {**RESET, "strict": True}}]


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "horn"}}}, "tool_choice", "horn is not among the tools"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "is missing"),
        ({"tool_choice": allowed("auto", "reset", "horn")}, "tool_choice", "horn is not among the tools"),
        ({"tool_choice": allowed("none", "reset")}, "tool_choice.allowed_tools.mode", "'auto' or 'required'"),
        ({"tool_choice": allowed("auto")}, "tool_choice.allowed_tools.tools", "at least 1 item"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "'auto', 'none' or 'required'"),
        ({"tool_choice": "any"}, "tool_choice", "'auto', 'none' or 'required'"),
        ({"tool_choice": "required", "tools": OPEN}, "tools", "'f': #/additionalProperties is not supported in a call"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice", "leave response_format out"),
        ({"tool_choice": "required", "regex": "a"}, "tool_choice", "leave regex out"),
        ({"tool_choice": "required", "stop": "x"}, "tool_choice", "leave stop out"),
        ({"tool_choice": "required", "think": True}, "think", "leave think out"),
        ({"tool_choice": "required", "max_tokens": 2}, "max_tokens", "2 is less than the"),
        ({"tool_choice": "required", "decoder": "autoregressive"}, "tool_choice", "needs decoder diffusion"),
        ({"tools": STRICT}, "tools", "strict holds only for a call that tool_choice forces"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "only a call that tool_choice forces"),
    ],
)
def test_what_cannot_be_forced_is_an_error_that_names_it(
    client: openai.OpenAI, given: dict[str, Any], param: str, says: str
) -> None:
    own = {name: value for name, value in given.items() if name in OWN}
    others = {name: value for name, value in given.items() if name not in OWN}
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **others, extra_body=own)
    assert caught.value.param == param and says in caught.value.message, caught.value.message
