"""Forced calls, forms and log-probabilities, as people ask for them with their clients' own helpers.

Those that are not installed get an environment of their own, which needs the network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from own_venv import install, lines
from served import serving
from speaking import _ids
from talking import Talker, talking

pytestmark = pytest.mark.slow
PAULA = {"name": "Paula", "city": "Zurich", "age": 30}

LANGCHAIN = """
import json, sys
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

class clock(BaseModel):
    "Tells the time."
    place: str = Field(max_length=9)

class Person(BaseModel):
    name: str
    city: str
    age: int

def model(url, name, **more):
    return ChatOpenAI(base_url=url + "/v1", api_key="none", model=name, seed=0, max_retries=0, max_tokens=64, **more)

talker, tiny = model(sys.argv[2], "talker"), model(sys.argv[1], "tiny")
found = {}
found["free"] = talker.bind_tools([clock]).invoke("x").content
for choice in ("any", "required", "clock", True):
    (call,) = talker.bind_tools([clock], tool_choice=choice).invoke("x").tool_calls
    found[str(choice)] = [call["name"], call["args"]]
parts = None
for part in talker.bind_tools([clock], tool_choice="clock").stream("x"):
    parts = part if parts is None else parts + part
found["streamed"] = [parts.tool_calls[0]["name"], parts.tool_calls[0]["args"]]
found["structured"] = talker.with_structured_output(clock, method="function_calling").invoke("x").model_dump()
found["strict"] = talker.bind_tools([clock], tool_choice="clock", strict=True).invoke("x").tool_calls[0]["args"]
own = ChatOpenAI(base_url=sys.argv[2] + "/v1", api_key="none", model="talker", use_responses_api=True)
found["responses"] = own.bind_tools(
    [clock], tool_choice="clock").invoke("x").tool_calls[0]["args"]
paula = "As JSON: Paula from Zurich, age 30."
found["schema"] = tiny.with_structured_output(Person, method="json_schema").invoke(paula).model_dump()
found["object"] = tiny.with_structured_output(None, method="json_mode").invoke(paula)
said = tiny.bind(logprobs=True, top_logprobs=2).invoke("Reverse the word table.").response_metadata["logprobs"]["content"]
found["logprobs"] = ["".join(one["token"] for one in said).strip(), {len(one["top_logprobs"]) for one in said} == {2}]
found["n"] = len(model(sys.argv[1], "tiny", n=2).generate([[HumanMessage("Reverse the word table.")]]).generations[0])
plain = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", model="tiny", max_tokens=8, max_retries=0, temperature=0, n=1)
found["completion"] = type(plain.invoke("Reverse the word table.")).__name__
print(json.dumps(found))
"""
LITELLM = """
import json, sys, litellm
litellm.telemetry, litellm.suppress_debug_info = False, True
clock = {"type": "function", "function": {"name": "clock", "parameters": {
    "type": "object", "properties": {"place": {"type": "string", "maxLength": 9}}, "required": ["place"]}}}
asked = [{"role": "user", "content": "x"}]
talker = {"api_base": sys.argv[2] + "/v1", "api_key": "none", "model": "openai/talker", "seed": 0, "max_tokens": 64}
tiny = {**talker, "api_base": sys.argv[1] + "/v1", "model": "openai/tiny"}
found = {"free": litellm.completion(messages=asked, tools=[clock], **talker).choices[0].message.content}

def args(choice):
    call, = choice.message.tool_calls
    return [call.function.name, json.loads(call.function.arguments)]

named = {"type": "function", "function": {"name": "clock"}}
found["required"] = args(litellm.completion(messages=asked, tools=[clock], tool_choice="required", **talker).choices[0])
only = {"tools": [clock], "tool_choice": named, "parallel_tool_calls": False}
alone = litellm.completion(messages=asked, **only, **talker).choices[0]
found["clock"], found["finish"] = args(alone), alone.finish_reason
chunks = list(litellm.completion(messages=asked, tools=[clock], tool_choice=named, stream=True, **talker))
found["streamed"] = args(litellm.stream_chunk_builder(chunks).choices[0])
person = {"type": "object", "required": ["name", "city", "age"], "properties": {
    "name": {"type": "string"}, "city": {"type": "string"}, "age": {"type": "integer"}}}
form = {"type": "json_schema", "json_schema": {"name": "person", "schema": person, "strict": True}}
paula = [{"role": "user", "content": "As JSON: Paula from Zurich, age 30."}]
found["schema"] = json.loads(litellm.completion(messages=paula, response_format=form, **tiny).choices[0].message.content)
word = [{"role": "user", "content": "Reverse the word table."}]
said = litellm.completion(messages=word, logprobs=True, top_logprobs=2, **tiny).choices[0].logprobs.content
found["logprobs"] = ["".join(one.token for one in said).strip(), {len(one.top_logprobs) for one in said} == {2}]
found["n"] = len(litellm.completion(messages=word, n=2, **tiny).choices)
ask = {name: value for name, value in tiny.items() if name not in ("seed", "max_tokens")}
found["responses"] = litellm.responses(input="Reverse the word table.", **ask).output[0].content[0].text
text = litellm.text_completion(prompt="Reverse the word table.", **{**tiny, "model": "text-completion-openai/tiny"})
found["completion"] = text.object
print(json.dumps(found))
"""
JAVASCRIPT = """
import OpenAI from "openai";
const client = (url) => new OpenAI({ baseURL: url + "/v1", apiKey: "none", maxRetries: 0 });
const talker = client(process.argv[3]), tiny = client(process.argv[2]), found = {};
const parameters = { type: "object", properties: { place: { type: "string", maxLength: 9 } }, required: ["place"],
                     additionalProperties: false };
const tools = [{ type: "function", function: { name: "clock", parameters } }];
const body = { model: "talker", seed: 0, messages: [{ role: "user", content: "x" }], tools };
const named = { type: "function", function: { name: "clock" } };
const args = (choice) => choice.message.tool_calls.map((c) => [c.function.name, JSON.parse(c.function.arguments)])[0];
found.free = (await talker.chat.completions.create(body)).choices[0].message.content;
const forced = await talker.chat.completions.create({ ...body, tool_choice: "required", n: 2 });
found.required = args(forced.choices[1]);
found.finish = forced.choices[0].finish_reason;
found.clock = args((await talker.chat.completions.create({ ...body, tool_choice: named })).choices[0]);
const stream = talker.chat.completions.stream({ ...body, tool_choice: named });
found.streamed = args((await stream.finalChatCompletion()).choices[0]);
const run = talker.chat.completions.runTools({ ...body, tool_choice: named, tools: [{ type: "function", function: {
  name: "clock", parameters, parse: JSON.parse, function: ({ place }) => { found.ran = place; return "12:40"; } } }] });
await run.done();
const own = [{ type: "function", name: "clock", parameters, strict: true }], choice = { type: "function", name: "clock" };
const asked = { model: "talker", input: "x", tools: own, tool_choice: choice };
found.responses = JSON.parse((await talker.responses.create(asked)).output[0].arguments);
const events = talker.responses.stream(asked);
found.responsesStreamed = JSON.parse((await events.finalResponse()).output[0].arguments);
const person = { type: "object", required: ["name", "city", "age"], properties: {
  name: { type: "string" }, city: { type: "string" }, age: { type: "integer" } } };
const paula = { model: "tiny", seed: 0, messages: [{ role: "user", content: "As JSON: Paula from Zurich, age 30." }] };
const form = { type: "json_schema", json_schema: { name: "person", schema: person, strict: true } };
found.schema = (await tiny.chat.completions.parse({ ...paula, response_format: form })).choices[0].message.parsed;
found.object = JSON.parse((await tiny.chat.completions.create({ ...paula, response_format: { type: "json_object" } }))
  .choices[0].message.content);
const word = { model: "tiny", seed: 0, messages: [{ role: "user", content: "Reverse the word table." }] };
const said = (await tiny.chat.completions.create({ ...word, logprobs: true, top_logprobs: 2 })).choices[0].logprobs.content;
found.logprobs = [said.map((one) => one.token).join("").trim(), said.every((one) => one.top_logprobs.length === 2)];
found.banned = (await tiny.chat.completions.create({ ...word, choices: ["chair", "elbat"], temperature: 0.5 }))
  .choices[0].message.content;
found.n = (await tiny.chat.completions.create({ ...word, n: 2 })).choices.length;
found.completion = (await tiny.completions.create({ model: "tiny", prompt: "x", max_tokens: 4, logprobs: 1 })).object;
found.models = (await tiny.models.list()).data.map((one) => one.id);
try { await talker.chat.completions.create({ ...body, tool_choice: { type: "function", function: { name: "horn" } } }); }
catch (error) { found.refused = [error.status, error.param]; }
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Of tiny, and of a model that calls a clock for Rome where it has to, and would else say no."""
    with serving(["tiny"]) as tiny:
        assert tiny.chat("Reverse the word table.")[0] == 200  # its engine is open before the other's is replaced
        with talking(tmp_path_factory.mktemp("forms")) as talker:
            Talker.said = _ids("No.")
            yield tiny.url, talker.url


def asked(found: dict[str, Any], *, wants: dict[str, Any]) -> None:
    assert found.pop("free") == "No."
    for name in ("any", "required", "clock", "True", "streamed"):
        if name in found:
            function, arguments = found.pop(name)
            assert function == "clock" and arguments.keys() == {"place"} and len(arguments["place"]) <= 9
    for name in ("structured", "strict", "responsesStreamed"):
        if name in found:
            assert found.pop(name).keys() == {"place"}
    assert found == wants


@pytest.mark.timeout(900)
def test_langchain(urls: tuple[str, str], tmp_path: Path) -> None:
    python = install(tmp_path, "langchain-openai") / "python"
    found = json.loads(lines(python, "-c", LANGCHAIN, *urls, cwd=tmp_path)[-1])
    assert found.pop("responses").keys() == {"place"}
    assert isinstance(found.pop("object"), dict)
    asked(found, wants={"schema": PAULA, "logprobs": ["elbat", True], "n": 2, "completion": "str"})


@pytest.mark.timeout(900)
def test_litellm(urls: tuple[str, str], tmp_path: Path) -> None:
    python = install(tmp_path, "litellm") / "python"
    found = json.loads(lines(python, "-c", LITELLM, *urls, cwd=tmp_path)[-1])
    wants = {"finish": "tool_calls", "schema": PAULA, "logprobs": ["elbat", True], "n": 2}
    asked(found, wants={**wants, "responses": "elbat", "completion": "text_completion"})


@pytest.mark.timeout(900)
def test_openai_for_javascript(urls: tuple[str, str], tmp_path: Path) -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs node and npm (apt-get install nodejs npm)")
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}', encoding="utf-8")
    lines("npm", "install", "--silent", "--no-audit", "--no-fund", "openai", cwd=tmp_path)
    (tmp_path / "ask.js").write_text(JAVASCRIPT, encoding="utf-8")
    found = json.loads(lines("node", "ask.js", *urls, cwd=tmp_path)[-1])
    assert found.pop("responses").keys() == {"place"} and isinstance(found.pop("object"), dict)
    assert len(found.pop("ran")) <= 9
    wants = {"finish": "tool_calls", "schema": PAULA, "logprobs": ["elbat", True], "n": 2, "completion": "text_completion"}
    asked(found, wants={**wants, "banned": "elbat", "models": ["tiny"], "refused": [400, "tool_choice"]})
