"""Clients that people have, each as they use it, and a tester of the published schema.

Those that are not installed get an environment of their own, which needs the network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_venv import install, lines
from served import Served, serving

pytestmark = pytest.mark.slow
PROMPT, ANSWER = "Reverse the word table.", "elbat"

LANGCHAIN = """
import sys
from langchain_openai import ChatOpenAI
more = {"seed": 0, "max_tokens": 64, "extra_body": {"decoder": "diffusion"}}
model = ChatOpenAI(base_url=sys.argv[1] + "/v1", api_key="none", model="tiny", **more)
print(model.invoke("Reverse the word table.").content)
print("".join(chunk.content for chunk in model.stream("Reverse the word table.")))
print(model.invoke("Reverse the word table.", stop=["ba"]).content)
try:
    model.invoke("x", presence_penalty=0.5)
except Exception as error:
    print("presence_penalty is not supported" in str(error))
"""
LITELLM = """
import sys, litellm
litellm.telemetry, litellm.suppress_debug_info = False, True
more = {"api_base": sys.argv[1] + "/v1", "api_key": "none", "model": "openai/tiny", "seed": 0, "max_tokens": 64}
asked = [{"role": "user", "content": "Reverse the word table."}]
print(litellm.completion(messages=asked, **more).choices[0].message.content)
print("".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(messages=asked, stream=True, **more)))
print(litellm.completion(messages=asked, stop=["ba"], **more).choices[0].message.content)
try:
    litellm.completion(messages=asked, presence_penalty=0.5, **more)
except Exception as error:
    print("presence_penalty is not supported" in str(error))
"""
JAVASCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const body = { model: "tiny", seed: 0, max_tokens: 64, messages: [{ role: "user", content: "Reverse the word table." }] };
console.log((await client.chat.completions.create(body)).choices[0].message.content);
let text = "";
const chunks = await client.chat.completions.create({ ...body, stream: true });
for await (const chunk of chunks) text += chunk.choices[0]?.delta?.content ?? "";
console.log(text);
console.log((await client.chat.completions.create({ ...body, stop: ["ba"] })).choices[0].message.content);
try { await client.chat.completions.create({ ...body, store: true }); } catch (error) { console.log(error.param === "store"); }
console.log((await client.responses.create({ model: "tiny", input: body.messages[0].content, seed: 0 })).output_text);
const stream = client.responses.stream({ model: "tiny", input: body.messages[0].content, seed: 0 });
console.log((await stream.finalResponse()).output_text);
"""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(["tiny"]) as found:
        yield found


@pytest.mark.parametrize(("package", "program"), [("langchain-openai", LANGCHAIN), ("litellm", LITELLM)])
@pytest.mark.timeout(900)
def test_adapters_of_python(served: Served, tmp_path: Path, package: str, program: str) -> None:
    python = install(tmp_path, package) / "python"
    assert lines(python, "-c", program, served.url, cwd=tmp_path) == [ANSWER, ANSWER, "el", "True"]


@pytest.mark.timeout(900)
def test_openai_for_javascript(served: Served, tmp_path: Path) -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs node and npm (apt-get install nodejs npm)")
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}', encoding="utf-8")
    lines("npm", "install", "--silent", "--no-audit", "--no-fund", "openai", cwd=tmp_path)
    (tmp_path / "ask.js").write_text(JAVASCRIPT, encoding="utf-8")
    assert lines("node", "ask.js", served.url, cwd=tmp_path) == [ANSWER, ANSWER, "el", "true", ANSWER, ANSWER]


def test_curl(served: Served, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl (apt-get install curl)")
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "seed": 0})
    command = ("curl", "-sS", "-w", "\n", f"{served.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d")
    assert json.loads(lines(*command, body, cwd=tmp_path)[0])["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.timeout(1200)
def test_the_published_schema_holds(served: Served, tmp_path: Path) -> None:
    """schemathesis makes requests of the schema, good and bad, and looks at statuses, types and bodies of the answers."""
    bin_ = install(tmp_path, "schemathesis==4.*")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    checks += ",negative_data_rejection"
    command = [bin_ / "schemathesis", "run", f"{served.url}/openapi.json", "--checks", checks, "--seed", "0"]
    lines(*command, "--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--request-timeout", "60", cwd=tmp_path)
