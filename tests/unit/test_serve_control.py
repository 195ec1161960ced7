"""What steers a generation, over the API: each option means what it means to a session, and changes something."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from served import Served

from dgemma.runtime.session import Session

PROMPT, LONG = "Reverse the word table.", "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9."
HOT = {"temperature": 1, "max_steps": 5}
OTHER = "Write the word table."
TABLE = {"temperature": [3.0, 2.0, 1.0, 0.5], "entropy_bound": [5.0, 0.1, 0.05, 0.01]}
CHOICES: dict[str, Any] = {"choices": ["elbat", "table", "chair"], "choice_probabilities": True}


def chat(client: openai.OpenAI, prompt: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model="tiny", messages=messages, seed=0, max_tokens=64, extra_body=more)


@pytest.mark.parametrize(
    ("more", "without"),
    [
        ({"schedule": "cosine", "temperature": "6:0.3"}, {"temperature": "6:0.3"}),
        ({"schedule": TABLE}, {}),
        ({"schedule": {"temperature": [1]}}, {}),
        ({"entropy_bound": "0.02:50", **HOT}, {"entropy_bound": 0.02, **HOT}),
        ({"min_tokens": 20}, {}),
        ({"guidance": 8}, {}),
        ({"guidance": 8.0, "negative": OTHER}, {"guidance": 8.0}),
        ({"guidance": 8, "negative": OTHER, "guidance_steps": "2:9"}, {"guidance": 8, "negative": OTHER}),
        ({"guidance": 8, "negative": OTHER, "guidance_steps": [1, 2]}, {"guidance": 8, "negative": OTHER}),
    ],
)
def test_options_are_those_of_a_session(
    client: openai.OpenAI, alone: Session, more: dict[str, Any], without: dict[str, Any]
) -> None:
    prompt = LONG if "guidance" in more or "schedule" in more else "Reverse the word extraordinary."
    expected, plain = (alone.generate(prompt, seed=0, max_new_tokens=64, **one) for one in (more, without))
    found = chat(client, prompt, **more)
    assert found.choices[0].message.content == expected.text
    assert (found.usage.steps, found.usage.position_forwards) == (expected.steps, expected.position_forwards)
    assert (plain.tokens, plain.position_forwards) != (expected.tokens, expected.position_forwards), "it changes nothing"


def test_choices_have_probabilities_on_every_endpoint(client: openai.OpenAI, alone: Session) -> None:
    expected = alone.generate(PROMPT, seed=0, max_new_tokens=64, **CHOICES)
    probabilities = dict(expected.choice_probabilities or {})
    assert list(probabilities) == CHOICES["choices"]
    (choice,) = chat(client, PROMPT, **CHOICES).choices
    assert (choice.message.content, choice.choice_probabilities) == (expected.text, probabilities)
    whole: Any = client.responses.create(model="tiny", input=PROMPT, extra_body={"seed": 0, **CHOICES})
    assert (whole.output_text, whole.choice_probabilities) == (expected.text, probabilities)
    ids = list(alone.prompt_ids(PROMPT))
    (raw,) = client.completions.create(model="tiny", prompt=ids, seed=0, extra_body=CHOICES).choices
    assert (raw.text, raw.choice_probabilities) == (expected.text, probabilities)  # type: ignore[attr-defined]
    without = chat(client, PROMPT, choices=CHOICES["choices"]).choices[0]
    assert without.message.content == expected.text and not hasattr(without, "choice_probabilities")


def test_a_stream_ends_with_the_probabilities(served: Served, alone: Session) -> None:
    expected = alone.generate(PROMPT, seed=0, max_new_tokens=64, **CHOICES)
    status, text = served.chat(PROMPT, seed=0, stream=True, **CHOICES)
    chunks = [json.loads(line[6:]) for line in text.decode().splitlines() if line.startswith("data: {")]
    found = [one["choices"][0] for one in chunks if one["choices"] and "choice_probabilities" in one["choices"][0]]
    assert status == 200 and [one["choice_probabilities"] for one in found] == [expected.choice_probabilities]


def test_what_a_template_was_filled_with_is_told_in_responses(client: openai.OpenAI, alone: Session) -> None:
    expected = alone.infill("el{{4}}", PROMPT, seed=0)
    whole: Any = client.responses.create(model="tiny", input=PROMPT, extra_body={"seed": 0, "template": "el{{4}}"})
    assert (whole.output_text, whole.holes) == (expected.text, list(expected.holes)) and expected.holes


def test_a_negative_prompt_of_a_completion_is_as_it_is(client: openai.OpenAI, alone: Session) -> None:
    ids = list(alone.prompt_ids(LONG))
    guided = {"guidance": 8.0, "negative": OTHER}
    expected, other = (
        alone.generate(ids, seed=0, max_new_tokens=64, **one)  # type: ignore[arg-type]
        for one in ({**guided, "raw": True}, {**guided, "negative": alone.prompt_ids(OTHER)})
    )
    found = client.completions.create(model="tiny", prompt=ids, seed=0, max_tokens=64, extra_body=guided).choices[0]
    assert found.text == expected.text and expected.tokens != other.tokens


def test_guided_answers_go_on_and_come_in_several(client: openai.OpenAI, alone: Session) -> None:
    guided = {"guidance": 2.0, "negative": OTHER}
    expected = [alone.generate(LONG, seed=seed, max_new_tokens=120, **guided) for seed in (0, 1)]  # type: ignore[arg-type]
    assert max(one.canvases for one in expected) > 1
    messages: Any = [{"role": "user", "content": LONG}]
    found = client.chat.completions.create(model="tiny", messages=messages, seed=0, n=2, max_tokens=120, extra_body=guided)
    assert [choice.message.content for choice in found.choices] == [one.text for one in expected]


def test_a_model_says_whether_it_can_be_guided(client: openai.OpenAI) -> None:
    assert client.models.retrieve("tiny").dgemma["guidance"] is True  # type: ignore[attr-defined]
