"""What the server refuses, on the shipped bundle: each error names the field that is to blame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from served import Served, serving

PROMPT = "Reverse the word table."


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(["tiny"]) as found:
        yield found


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def asked(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


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
        ({"top_k": 4, "loop": "graph"}, "top_k", "invalid_value"),
        ({"template": "{{x", "draft": "y"}, "template", "invalid_value"),
        ({"max_steps": 17}, "max_steps", "invalid_value"),
        ({"template": "{{9999}}"}, "template", "invalid_value"),
        ({"template": "no hole"}, "template", "invalid_value"),
        ({"template": "{{9}}", "max_tokens": 3}, "template", "invalid_value"),
        ({"template": "{{9}}", "stop": "x"}, "template", "invalid_value"),
        ({"fallback": "autoregressive", "decoder": "autoregressive"}, "fallback", "invalid_value"),
        ({"adaptive": False, "decoder": "autoregressive"}, "adaptive", "invalid_value"),
        ({"early_commit": 0.1, "loop": "graph"}, "early_commit", "invalid_value"),
        ({"frames": True, "stream": False}, "frames", "invalid_value"),
        ({"stop": [""]}, "stop.0", "invalid_value"),
        ({"response_format": {"type": "yaml"}}, "response_format", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_parameter"),
        (_schema({"type": "string", "contains": 1}), "response_format", "invalid_value"),
        ({**_schema({"type": "integer"}), "stop": "x"}, "response_format", "invalid_value"),
        ({**_schema({"type": "integer"}), "decoder": "autoregressive"}, "response_format", "invalid_value"),
        ({"regex": "("}, "regex", "invalid_value"),
        ({"regex": "x" * 300, "max_tokens": 3}, "max_tokens", "invalid_value"),
        ({"choices": ["a"]}, "choices", "invalid_value"),
        ({"choices": ["a", "b"], "regex": "x"}, "regex", "invalid_value"),
        ({"schedule": "square"}, "schedule", "invalid_value"),
        ({"schedule": "/etc/schedule.toml"}, "schedule", "invalid_value"),
        ({"schedule": {}}, "schedule", "invalid_value"),
        ({"schedule": {"temperature": [0.5], "colour": [1]}}, "schedule.colour", "unknown_parameter"),
        ({"schedule": {"temperature": [-1]}}, "schedule.temperature.0", "invalid_value"),
        ({"schedule": {"temperature": [0.5] * 17}}, "schedule", "invalid_value"),
        ({"schedule": {"temperature": [0.5], "entropy_bound": [1, 2]}}, "schedule", "invalid_value"),
        ({"schedule": {"temperature": [0.5, 0.4]}, "max_steps": 3}, "max_steps", "invalid_value"),
        ({"schedule": {"temperature": [0.5]}, "temperature": 1}, "temperature", "invalid_value"),
        ({"schedule": "linear", "decoder": "autoregressive"}, "schedule", "invalid_value"),
        ({"entropy_bound": "0:1"}, "entropy_bound", "invalid_value"),
        ({"entropy_bound": "low"}, "entropy_bound", "invalid_value"),
        ({"profile": "fast.toml"}, "profile", "unknown_parameter"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "invalid_value"),
        ({"min_tokens": 9, "stop": "x"}, "min_tokens", "invalid_value"),
        ({"min_tokens": 9, "loop": "graph"}, "min_tokens", "invalid_value"),
        ({"choice_probabilities": True}, "choice_probabilities", "invalid_value"),
        ({"choice_probabilities": True, "choices": ["a", "x" * 400]}, "choice_probabilities", "invalid_value"),
        ({"guidance": -1}, "guidance", "invalid_value"),
        ({"guidance": 2, "loop": "graph"}, "guidance", "invalid_value"),
        ({"guidance": 2, "early_commit": 0.1}, "guidance", "invalid_value"),
        ({"guidance_steps": "1:2"}, "guidance_steps", "invalid_value"),
        ({"guidance": 2, "guidance_steps": "2:1"}, "guidance_steps", "invalid_value"),
        ({"guidance": 2, "guidance_steps": [0, 1]}, "guidance_steps.0", "invalid_value"),
        ({"negative": "x"}, "negative", "invalid_value"),
        ({"guidance": 2, "negative": ""}, "negative", "invalid_value"),
        ({"guidance": 2, "negative": "word " * 3000}, "negative", "context_length_exceeded"),
        ({"n": 2, "decoder": "autoregressive"}, "n", "invalid_value"),
        ({"n": 2, "speculate": True}, "n", "invalid_value"),
        ({"presence_penalty": 1}, "presence_penalty", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"think": True}, "think", "unsupported_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
            "tools",
            "unsupported_parameter",
        ),
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
        ("responses", {"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ("responses", {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text"),
        ("completions", {"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_errors_of_the_other_endpoints_name_the_field(served: Served, path: str, more: dict[str, object], param: str) -> None:
    prompt = {"prompt": "x"} if path == "completions" else {"input": "x"}
    status, found, _ = served.request("POST", f"/v1/{path}", {"model": "tiny", **prompt, **more})
    assert status == 400 and (found["error"]["param"] or "").startswith(param), found
    assert "\n" not in found["error"]["message"] and "--" not in found["error"]["message"]
