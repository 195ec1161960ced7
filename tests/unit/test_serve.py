"""The server on the shipped bundle, as OpenAI's own client for Python speaks to it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from served import Served, serving

from dgemma.runtime.session import Session

PROMPT, LONG = "Reverse the word table.", "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9."


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(["tiny"]) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def alone() -> Iterator[Session]:
    with Session.load("tiny") as found:
        yield found


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
    for more, possible in (({"regex": "[0-9]{3}"}, r"[0-9]{3}"), ({"choices": ["yes", "no"]}, "yes|no")):
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


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"top_p": 1.5}, "top_p", "invalid_value"),
        ({"top_p": 0.5, "decoder": "autoregressive"}, "top_p", "invalid_value"),
        ({"top_k": 0}, "top_k", "invalid_value"),
        ({"top_k": 9999}, "top_k", "invalid_value"),
        ({"min_p": -1}, "min_p", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "invalid_value"),
        ({"logit_bias": {"5": -101}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", "invalid_value"),
        ({"ban": "no such single token"}, "ban", "invalid_value"),
        ({"logprobs": 3}, "logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "loop": "graph"}, "logprobs", "invalid_value"),
        ({"logprobs": True, "speculate": True}, "logprobs", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temperature": 0.5, "decoder": "autoregressive"}, "temperature", "invalid_value"),
        ({"temperature": 0.5, "loop": "graph"}, "temperature", "invalid_value"),
        ({"template": "{{x", "draft": "y"}, "template", "invalid_value"),
        ({"max_steps": 17}, "max_steps", "invalid_value"),
        ({"template": "{{65}}"}, "template", "invalid_value"),
        ({"template": "no hole"}, "template", "invalid_value"),
        ({"template": "{{9}}", "max_tokens": 3}, "template", "invalid_value"),
        ({"template": "{{9}}", "stop": "x"}, "template", "invalid_value"),
        ({"fallback": "autoregressive", "decoder": "autoregressive"}, "fallback", "invalid_value"),
        ({"adaptive": False, "decoder": "autoregressive"}, "adaptive", "invalid_value"),
        ({"early_commit": 0.1, "loop": "graph"}, "early_commit", "invalid_value"),
        ({"frames": True, "stream": False}, "frames", "invalid_value"),
        ({"stop": [""]}, "stop.0", "invalid_value"),
        ({"response_format": {"type": "yaml"}}, "response_format", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.json_schema", "missing_parameter"),
        (_schema({"type": "string", "contains": 1}), "response_format", "invalid_value"),
        ({**_schema({"type": "integer"}), "stop": "x"}, "response_format", "invalid_value"),
        ({**_schema({"type": "integer"}), "decoder": "autoregressive"}, "response_format", "invalid_value"),
        ({"regex": "("}, "regex", "invalid_value"),
        ({"regex": "x" * 300, "max_tokens": 3}, "max_tokens", "invalid_value"),
        ({"choices": ["a"]}, "choices", "invalid_value"),
        ({"choices": ["a", "b"], "regex": "x"}, "regex", "invalid_value"),
        ({"presence_penalty": 1}, "presence_penalty", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"think": True}, "think", "unsupported_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "invalid_value"),
        ({"wizardry": 1}, "wizardry", "unknown_parameter"),
        ({"stream_options": {"colour": 1}}, "stream_options.colour", "unknown_parameter"),
        ({"strength": 0.5}, "strength", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"decoder": "magic"}, "decoder", "invalid_value"),
        ({"start_width": 65}, "start_width", "invalid_value"),
        ({"recheck": True}, "recheck", "invalid_value"),
        ({"decoder": "autoregressive", "speculate": True}, "speculate", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": asked("word " * 3000)}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type", "invalid_value"),
        ({"model": "gpt"}, "model", "model_not_found"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_supported_is_an_error_that_names_it(
    served: Served, more: dict[str, object], param: str | None, code: str, stream: bool
) -> None:
    status, found, _ = served.request(
        "POST", "/v1/chat/completions", {"model": "tiny", "messages": asked(PROMPT), "stream": stream, **more}
    )
    assert found.keys() == {"error"} and found["error"].keys() == {"message", "type", "param", "code"}
    assert (status, found["error"]["param"], found["error"]["code"]) == (404 if "model" in more else 400, param, code), found
    assert "\n" not in found["error"]["message"] and "--" not in found["error"]["message"]


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": [99999]}, "prompt"),
        ("completions", {"prompt": [[1], []]}, "prompt"),
        ("completions", {"prompt": ["x", ""]}, "prompt"),
        ("completions", {"prompt": "\ud800"}, "prompt"),
        ("completions", {"prompt": 5}, "prompt"),
        ("completions", {"prompt": "x " * 3000}, "prompt"),
        ("completions", {"template": "{{9}}", "max_tokens": 3}, "template"),
        ("completions", {"max_tokens": 0}, "max_tokens"),
        ("completions", {"logprobs": 6}, "logprobs"),
        ("completions", {"logprobs": 2, "decoder": "autoregressive"}, "logprobs"),
        ("completions", {"echo": True}, "echo"),
        ("completions", {"best_of": 2}, "best_of"),
        ("completions", {"suffix": "x"}, "suffix"),
        ("completions", {"messages": []}, "messages"),
        ("responses", {"input": []}, "input"),
        ("responses", {"input": [{"role": "wizard", "content": "x"}]}, "input"),
        ("responses", {"input": [{"role": "assistant", "content": "x"}]}, "input"),
        ("responses", {"input": "x " * 3000}, "input"),
        ("responses", {"instructions": "Be brief."}, "instructions"),
        ("responses", {"max_output_tokens": 0}, "max_output_tokens"),
        ("responses", {"template": "{{9}}", "max_output_tokens": 3}, "template"),
        ("responses", {"top_p": 0}, "top_p"),
        ("responses", {"top_logprobs": 2}, "top_logprobs"),
        ("responses", {"previous_response_id": "x"}, "previous_response_id"),
        ("responses", {"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ("responses", {"tools": [{"type": "function", "name": "f"}]}, "tools"),
        ("responses", {"tool_choice": "required"}, "tool_choice"),
        ("responses", {"reasoning": {"effort": "high"}}, "reasoning"),
        ("responses", {"text": {"format": {"type": "yaml"}}}, "text.format"),
        ("responses", {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text"),
        ("completions", {"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_errors_of_the_other_endpoints_name_the_field(served: Served, path: str, more: dict[str, object], param: str) -> None:
    prompt = {"prompt": "x"} if path == "completions" else {"input": "x"}
    status, found, _ = served.request("POST", f"/v1/{path}", {"model": "tiny", **prompt, **more})
    assert status == 400 and (found["error"]["param"] or "").startswith(param), found
    assert "\n" not in found["error"]["message"] and "--" not in found["error"]["message"]


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
