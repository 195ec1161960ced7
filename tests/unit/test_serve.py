"""The server on the shipped bundle, as OpenAI's own client for Python speaks to it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import openai
import pytest
from served import Served

from dgemma.runtime.session import Session

PROMPT, LONG = "Reverse the word table.", "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9."


PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def asked(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def test_an_answer_is_that_of_a_session(client: openai.OpenAI, alone: Session) -> None:
    for seed in (0, 5):
        expected = alone.generate(LONG, seed=seed, max_new_tokens=100)
        found = client.chat.completions.create(model="tiny", messages=asked(LONG), seed=seed, max_tokens=100)  # type: ignore[call-overload]
        assert found.choices[0].message.content == expected.text
        assert found.choices[0].finish_reason == ("stop" if expected.stop_reason == "stop" else "length")
        usage = found.usage
        assert usage.completion_tokens == expected.count and usage.prompt_tokens == len(alone.prompt_ids(LONG))
        assert (usage.steps, usage.position_forwards, usage.seed) == (expected.steps, expected.position_forwards, seed)


def test_a_stream_gives_committed_text_in_pieces(client: openai.OpenAI, alone: Session) -> None:
    expected = alone.generate(LONG, seed=1, max_new_tokens=150)
    assert expected.canvases >= 2
    pieces, finish, usage = list[str](), None, None
    with client.chat.completions.create(
        model="tiny",
        messages=asked(LONG),
        seed=1,
        max_completion_tokens=150,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:  # type: ignore[call-overload]
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                pieces += [choice.delta.content] if choice.delta.content else []
                finish = choice.finish_reason or finish
    assert "".join(pieces) == expected.text and len(pieces) == expected.canvases
    assert finish == "length" if expected.stop_reason == "length" else "stop"
    assert usage is not None and usage.completion_tokens == expected.count


@pytest.mark.parametrize("most", [1, 7, 64, 65])
def test_limits_are_exact(client: openai.OpenAI, alone: Session, most: int) -> None:
    expected = alone.generate(LONG, seed=3, max_new_tokens=most)
    found = client.chat.completions.create(model="tiny", messages=asked(LONG), seed=3, max_completion_tokens=most)  # type: ignore[call-overload]
    assert found.choices[0].message.content == expected.text and found.usage.completion_tokens <= most


def test_several_answers_have_seeds_in_a_row(client: openai.OpenAI, alone: Session) -> None:
    found = client.chat.completions.create(model="tiny", messages=asked("Sort: d b a c"), seed=7, n=2, max_tokens=20)  # type: ignore[call-overload]
    expected = [alone.generate("Sort: d b a c", seed=seed, max_new_tokens=20).text for seed in (7, 8)]
    assert [choice.message.content for choice in found.choices] == expected
    assert [choice.index for choice in found.choices] == [0, 1]


@pytest.mark.parametrize(
    "more",
    [
        {"decoder": "autoregressive"},
        {"early_commit": 0.01, "start_width": "auto"},
        {"start_width": 8, "recheck": True},
        {"speculate": True},
        {"adaptive": False},
        {"loop": "graph"},
        {"temperature": 0, "max_steps": 4},
        {"temperature": "0.9:0.1", "confidence": 0.5, "stability": 2},
        {"stop": ["ba", "zz"]},
        {"fallback": "autoregressive"},
        {"entropy_bound": 0.05, "template": "el{{4}}"},
        {"draft": "elbta", "strength": 0.5},
    ],
)
def test_options_of_dgemma_go_into_the_body(client: openai.OpenAI, alone: Session, more: dict[str, object]) -> None:
    expected = alone.generate(PROMPT, seed=0, max_new_tokens=64, **more)  # type: ignore[arg-type]
    found = client.chat.completions.create(model="tiny", messages=asked(PROMPT), seed=0, max_tokens=64, extra_body=more)  # type: ignore[call-overload]
    assert found.choices[0].message.content == expected.text
    assert (found.usage.steps, found.usage.position_forwards) == (expected.steps, expected.position_forwards)


@pytest.mark.parametrize(
    ("named", "extra", "keywords"),
    [
        ({"top_p": 0.5, "temperature": 2.0}, {}, {"top_p": 0.5, "temperature": 2.0}),
        ({"top_p": 1, "temperature": 2.0}, {}, {"temperature": 2.0}),
        ({"temperature": 2.0}, {"top_k": 2}, {"top_k": 2, "temperature": 2.0}),
        ({"temperature": 2.0}, {"min_p": 0.2}, {"min_p": 0.2, "temperature": 2.0}),
        ({"temperature": 2.0}, {"min_p": 0}, {"temperature": 2.0}),
        ({"logit_bias": {"300": -100, "301": 2}}, {}, {"logit_bias": {300: -math.inf, 301: 2.0}}),
        ({}, {"ban": [300, 17]}, {"ban": [300, 17]}),
    ],
)
def test_what_cuts_draws(
    client: openai.OpenAI, alone: Session, named: dict[str, Any], extra: dict[str, Any], keywords: dict[str, Any]
) -> None:
    expected = alone.generate(LONG, seed=0, max_new_tokens=64, **keywords)
    found = client.chat.completions.create(model="tiny", messages=asked(LONG), seed=0, max_tokens=64, extra_body=extra, **named)  # type: ignore[call-overload]
    assert found.choices[0].message.content == expected.text
    assert (found.usage.steps, found.usage.position_forwards) == (expected.steps, expected.position_forwards)


def test_json_of_a_schema(client: openai.OpenAI, alone: Session) -> None:
    expected = alone.generate(PROMPT, seed=0, max_new_tokens=64, json_schema=PERSON)
    form = _schema(PERSON)["response_format"]
    found = client.chat.completions.create(model="tiny", messages=asked(PROMPT), seed=0, max_tokens=64, response_format=form)  # type: ignore[call-overload]
    said = json.loads(found.choices[0].message.content)
    assert found.choices[0].message.content == expected.text
    assert list(said) == ["name", "age"] and 0 <= said["age"] <= 120 and len(said["name"]) <= 8
    more: Any = {"format": {"type": "json_schema", "name": "answer", "schema": PERSON, "strict": True}}
    whole = client.responses.create(model="tiny", input=PROMPT, max_output_tokens=64, text=more, extra_body={"seed": 0})
    assert whole.output_text == expected.text and whole.text is not None and whole.text.format is not None
    assert whole.text.format.to_dict() == more["format"]


def test_a_json_object_of_any_kind(client: openai.OpenAI) -> None:
    for seed in range(3):
        found = client.chat.completions.create(
            model="tiny", messages=asked("As JSON: a is 5"), seed=seed, max_tokens=40, response_format={"type": "json_object"}
        )
        assert isinstance(json.loads(found.choices[0].message.content or ""), dict)


def test_expressions_and_choices(client: openai.OpenAI) -> None:
    grammar = {"grammar": 'start: "a" | "(" start ")"', "grammar_depth": 1}
    for more, possible in (
        ({"regex": "[0-9]{3}"}, r"[0-9]{3}"),
        ({"choices": ["yes", "no"]}, "yes|no"),
        (grammar, r"a|\(a\)"),
    ):
        found = client.chat.completions.create(model="tiny", messages=asked(PROMPT), seed=1, extra_body=more)  # type: ignore[call-overload]
        assert re.fullmatch(possible, found.choices[0].message.content)


def test_a_bias_of_minus_100_bans_what_was_said(client: openai.OpenAI, alone: Session) -> None:
    first = alone.generate(PROMPT, seed=0, max_new_tokens=64).tokens[0]
    found = client.chat.completions.create(model="tiny", messages=asked(PROMPT), seed=0, logit_bias={str(first): -100})  # type: ignore[call-overload]
    banned = alone.generate(PROMPT, seed=0, ban=first)
    assert found.choices[0].message.content == banned.text and first not in banned.tokens


def test_log_probabilities_of_a_chat(client: openai.OpenAI, alone: Session) -> None:
    expected = alone.generate(PROMPT, seed=0, max_new_tokens=64, logprobs=3)
    asks: Any = {"model": "tiny", "messages": asked(PROMPT), "seed": 0, "max_tokens": 64, "logprobs": True, "top_logprobs": 3}
    found = client.chat.completions.create(**asks).choices[0].logprobs
    assert found is not None and found.content is not None
    assert "".join(one.token for one in found.content).strip() == "elbat"
    assert [one.logprob for one in found.content] == [one.logprob for one in expected.logprobs[: expected.count]]
    for one, (token, _, top) in zip(found.content, expected.logprobs, strict=False):
        assert [other.logprob for other in one.top_logprobs] == [value for _, value in top] and len(top) == 3
        assert bytes(one.bytes or []).decode() == one.token and token == top[0][0]
    with client.chat.completions.stream(**asks) as stream:
        assert stream.get_final_completion().choices[0].logprobs == found
    without = client.chat.completions.create(**{**asks, "logprobs": False, "top_logprobs": 0})
    assert without.choices[0].logprobs is None


def test_log_probabilities_of_a_completion(client: openai.OpenAI, alone: Session) -> None:
    ids = list(alone.prompt_ids(PROMPT))
    expected = alone.generate(ids, seed=0, max_new_tokens=16, logprobs=2)
    found = client.completions.create(model="tiny", prompt=ids, seed=0, logprobs=2).choices[0]
    assert found.logprobs is not None and found.logprobs.tokens is not None
    assert "".join(found.logprobs.tokens).strip() == found.text
    assert found.logprobs.token_logprobs == [one.logprob for one in expected.logprobs[: expected.count]]
    assert found.logprobs.text_offset is not None and found.logprobs.text_offset[0] == 0
    assert all(len(top) == 2 for top in found.logprobs.top_logprobs or [])
    chunks = list(client.completions.create(model="tiny", prompt=ids, seed=0, logprobs=2, stream=True))
    assert [one.choices[0].logprobs for one in chunks if one.choices[0].logprobs] == [found.logprobs]


def test_a_stop_string_ends_the_answer_and_the_stream(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model="tiny", messages=asked(PROMPT), seed=0, stop="ba")  # type: ignore[call-overload]
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason, choice.stop_reason) == ("el", "stop", "ba")
    text = ""
    for chunk in client.chat.completions.create(model="tiny", messages=asked(PROMPT), seed=0, stop=["ba"], stream=True):  # type: ignore[call-overload]
        text += chunk.choices[0].delta.content or ""
    assert text == "el"


def test_completions_take_prompts_as_they_are(client: openai.OpenAI, alone: Session) -> None:
    assert alone.tokenizer is not None
    ids = list(alone.prompt_ids(PROMPT))
    found = client.completions.create(model="tiny", prompt=[ids, ids], seed=0, n=2, max_tokens=10)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in found.choices] == ["elbat"] * 4
    text = "".join(chunk.choices[0].text for chunk in client.completions.create(model="tiny", prompt=ids, seed=0, stream=True))
    assert text == "elbat"
    raw = alone.generate("Reverse", raw=True, seed=0, max_new_tokens=16).text
    assert client.completions.create(model="tiny", prompt="Reverse", seed=0).choices[0].text == raw


def test_responses(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="tiny", input=PROMPT, extra_body={"seed": 0})
    assert (whole.output_text, whole.status) == ("elbat", "completed")
    assert whole.usage is not None and whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    cut = client.responses.create(model="tiny", input=[{"role": "user", "content": LONG}], max_output_tokens=5)  # type: ignore[list-item]
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    with client.responses.stream(model="tiny", input=PROMPT, extra_body={"seed": 0}) as stream:  # the client checks every event
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "elbat"
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds


def test_models_are_listed_with_what_they_can_do(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny" and client.models.retrieve("tiny").id == "tiny"
    facts = model.dgemma  # type: ignore[attr-defined]
    assert facts["single_turns"] and not facts["tools"] and facts["canvas_length"] == 64
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.models.retrieve("gpt")


def test_frames_are_events_of_another_type(served: Served, alone: Session) -> None:
    body = {"model": "tiny", "messages": asked(PROMPT), "seed": 0, "stream": True, "frames": True}
    status, text, headers = served.request("POST", "/v1/chat/completions", body)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in text.decode().split("\n\n") if block]
    frames = [json.loads(lines[1][6:]) for lines in blocks if lines[0] == "event: dgemma.frame"]
    result = alone.generate(PROMPT, seed=0, trace=True)
    assert result.trajectory is not None and len(frames) == result.steps
    last = frames[-1]["dgemma.frame"]
    assert frames[-1]["choices"] == [] and last["ids"] == result.trajectory.argmax[-1].tolist()
    assert "".join(last["text"][: last["end"]]).strip() == "elbat"
    assert set(last["state"]) <= {"uncertain", "changed", "settled"} and last["missed"] == 0
    assert last["step"] == result.steps and len(last["entropy"]) == 64
    assert blocks[-1] == ["data: [DONE]"]


def test_a_later_turn_of_a_model_of_single_turns_is_refused(client: openai.OpenAI) -> None:
    turns = [*asked(PROMPT), {"role": "assistant", "content": "elbat"}, *asked("Reverse the word lamp.")]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=turns)  # type: ignore[arg-type]
    assert caught.value.code == "single_turns" and caught.value.param == "messages"


def test_values_that_ask_for_nothing_are_taken(served: Served) -> None:
    nothing = {
        "temperature": None, "stop": None, "n": 1, "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0,
        "response_format": {"type": "text"}, "tools": None, "store": False, "user": "someone", "metadata": {"a": "b"},
        "parallel_tool_calls": True, "logit_bias": {}, "service_tier": "auto", "reasoning_effort": "none",
    }  # fmt: skip
    status, found = served.chat(PROMPT, seed=0, **nothing)
    assert status == 200 and found["choices"][0]["message"]["content"] == "elbat"


def test_a_seed_that_was_drawn_is_told_and_repeats_the_answer(served: Served) -> None:
    prompt = "Sort: h g f e d c b a and more"
    first = served.chat(prompt, max_tokens=64)[1]
    again = served.chat(prompt, max_tokens=64, seed=first["usage"]["seed"])[1]
    assert first["choices"][0]["message"] == again["choices"][0]["message"]
    assert first["usage"]["seed"] != served.chat(prompt, max_tokens=1)[1]["usage"]["seed"]


@pytest.mark.parametrize("more", [{"frames": True}, {"stream_options": {"include_usage": True}}])
def test_what_is_about_streams_needs_one(served: Served, more: dict[str, object]) -> None:
    status, found, _ = served.request("POST", "/v1/chat/completions", {"model": "tiny", "messages": asked(PROMPT), **more})
    assert (status, found["error"]["param"], found["error"]["code"]) == (400, *more, "invalid_value")
