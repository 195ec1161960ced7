"""Every program of `examples/` runs and does what it says."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import Request, urlopen

import pytest
import released_folder
import speaking
from own_venv import install, lines
from served import serving

from dgemma.runtime import session as session_module

REVERSED = ("Reverse the word table.", "elbat")


def run(repo_root: Path, name: str, *arguments: str | Path, status: int = 0) -> str:
    """What a program prints; it must end with the status."""
    command = [sys.executable, str(repo_root / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def test_every_example_is_listed_and_tested(repo_root: Path) -> None:
    folder = repo_root / "examples"
    listed, tested = (folder / "README.md").read_text(encoding="utf-8"), Path(__file__).read_text(encoding="utf-8")
    for path in folder.iterdir():
        if path.is_file() and path.name != "README.md":
            assert f"`{path.name}`" in listed, f"{path.name} is not in examples/README.md"
            assert f'"{path.name}"' in tested, f"{path.name} has no test"


def test_the_callback_sees_every_step(repo_root: Path, tiny_bundle: Path) -> None:
    lines = run(repo_root, "embed_callback.py", tiny_bundle).splitlines()
    assert lines[-2] == "four thousand two hundred and seventy one"
    steps = int(lines[-1].split()[0])
    assert [line.split(":")[0] for line in lines[:steps]] == [f"step {i + 1}" for i in range(steps)]
    assert len(lines) == steps + 2


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("embed_callback.py", ["ABSENT"], "no such folder"),
        ("chat_turns.py", ["ABSENT"], "no such folder"),
        ("cancel.py", ["ABSENT"], "no such folder"),
        ("draw_canvas.py", ["ABSENT", "-p", "x", "--out", "x.svg"], "no such folder"),
        ("many_prompts.py", ["ABSENT"], "No such file"),
        ("many_prompts.py", [], "usage: "),
        ("plan_device.py", ["2b", "no-phone", "5"], "--device 'no-phone' is unknown"),
        ("plan_device.py", ["2b", "phone-flagship", "much"], "usage: "),
        ("serve_app.py", ["ABSENT"], "no such folder"),
        ("serve_app.py", ["tiny", "x"], "port -1 must be between 0 and 65535"),
        ("verify_in_ci.py", [], "usage: "),
        ("verify_in_ci.py", ["ABSENT"], "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    repo_root: Path, tmp_path: Path, name: str, arguments: list[str], says: str
) -> None:
    error = run(repo_root, name, *(str(tmp_path / "absent") if one == "ABSENT" else one for one in arguments), status=2)
    assert says in error and len(error.splitlines()) == 1, error


def test_turns_are_kept_and_taken_back(repo_root: Path, tiny_bundle: Path) -> None:
    lines = run(repo_root, "chat_turns.py", tiny_bundle).splitlines()
    assert lines[:2] == [f"> {REVERSED[0]}", REVERSED[1]] and lines[2] == "> Reverse the word lamp."
    assert 0 < int(lines[-1].split()[0]) < 100


def test_a_cancelled_session_goes_on(repo_root: Path, tiny_bundle: Path) -> None:
    assert run(repo_root, "cancel.py", tiny_bundle).splitlines() == ["cancelled after 1 step", REVERSED[1]]


def test_many_prompts_are_answered_line_by_line(repo_root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{REVERSED[0]}\n\n{'too long ' * 2000}\n", encoding="utf-8")
    first, second = map(json.loads, run(repo_root, "many_prompts.py", prompts, tiny_bundle).splitlines())
    assert (first["prompt"], first["text"]) == REVERSED
    assert "leaves no room" in second["error"]


def test_a_job_fails_when_a_bundle_does_not_do_what_it_did(repo_root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tiny.dgemma")
    assert run(repo_root, "verify_in_ci.py", bundle).strip().endswith("passed")
    (bundle / "onnx" / "weights.bin").write_bytes(b"damaged")
    assert "weights.bin" in run(repo_root, "verify_in_ci.py", bundle, status=2)


def test_plans_are_sorted_and_fast_enough(repo_root: Path) -> None:
    *found, sentence = run(repo_root, "plan_device.py", "2b", "phone-flagship", "5").splitlines()
    sizes = [float(line.split(": ")[1].split()[0]) for line in found]
    assert sizes and sizes == sorted(sizes)
    assert all(float(line.split(", ")[-1].split()[0]) >= 5 for line in found)
    assert sentence.startswith("Take ")
    assert len(run(repo_root, "plan_device.py", "2b", "phone-flagship", "1000").splitlines()) == 1


def test_the_drawing_shows_every_step_and_fetches_nothing(repo_root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "canvas.svg"
    run(repo_root, "draw_canvas.py", tiny_bundle, "-p", "How do you say 40228?", "--seed", "1", "--out", out)
    svg = out.read_text(encoding="utf-8")
    assert "step&#160;&#160;1" in svg and "eight" in svg and "uncertain" in svg
    assert "url(" not in svg.replace("url(#", "")


def test_the_cells_of_the_notebook_draw_the_canvas(repo_root: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython is no dependency of the tests: what the notebook takes from it is recorded instead."""
    updates: list[str] = []

    class Handle:
        def update(self, shown: str) -> None:
            updates.append(shown)

    display = ModuleType("IPython.display")
    display.__dict__.update(HTML=str, display=lambda shown, display_id: Handle())
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    notebook = json.loads((repo_root / "examples" / "canvas.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "commit the notebook without outputs"
            exec("".join(cell["source"]).replace('"tiny"', repr(str(tiny_bundle))), names)
    assert names["result"].text == "forty thousand two hundred and twenty eight"
    assert len(updates) == names["result"].steps == len(names["trajectory"].entropy)
    assert updates[-1].count("<pre>step") == len(updates) and "rgba(240, 160, 40, 0.00)" in updates[-1]


@pytest.mark.slow
def test_the_application_answers_beside_routes_of_its_own(repo_root: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(repo_root / "examples" / "serve_app.py"), "tiny", str(port)])
    try:
        for _ in range(300):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}"
        assert json.load(urlopen(f"{url}/reversed/table"))["reversed"] == REVERSED[1]
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": REVERSED[0]}], "seed": 0}).encode()
        asked = Request(f"{url}/v1/chat/completions", body, {"content-type": "application/json"})
        assert json.load(urlopen(asked))["choices"][0]["message"]["content"] == REVERSED[1]
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_the_agent_calls_its_tool_and_answers(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a scripted model, for tiny calls no tools."""
    bundle = speaking.write_speaking(tmp_path / "talker.dgemma", speaking.write_text(tmp_path, released_folder.template()))
    ids = speaking._ids
    place = [speaking.QUOTE, *ids("Mars"), speaking.QUOTE]
    monkeypatch.setattr(speaking.Agent, "call", [speaking.CALL, *ids("call:clock{place:"), *place, *ids("}"), speaking.CALLED])
    monkeypatch.setattr(speaking.Agent, "after", ids("It is no time there."))
    monkeypatch.setattr(session_module, "open_engine", lambda bundle, *_: speaking.Agent(bundle, stop=speaking.STOP))
    python = install(tmp_path, "langchain", "langchain-openai", "tzdata") / "python"
    program = repo_root / "examples" / "langchain_agent.py"
    with serving([bundle]) as served:
        said = lines(python, program, "talker", "How late is it?", served.url, cwd=tmp_path)
        missing = subprocess.run([python, program, "none", "x", served.url], capture_output=True, text=True, timeout=120)
    assert said == [
        "human: How late is it?",
        "calls clock {'place': 'Mars'}",
        "tool: Mars is no time zone; give one such as Europe/Rome",
        "ai: It is no time there.",
    ]
    assert missing.returncode == 2 and "there is no model 'none'" in missing.stderr and missing.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_web_page_shows_the_canvas(repo_root: Path) -> None:
    chromium = shutil.which("chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (uv pip install playwright)")
    if chromium is None:
        pytest.skip("needs Debian's chromium (apt-get install chromium)")
    pages = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(repo_root / "examples")))
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{pages.server_port}"
    with serving(["tiny"], cors_origins=[origin]) as served, sync.sync_playwright() as play:
        page = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        page.goto(f"{origin}/serve_page.html?server={served.url}")
        page.click("button")
        page.wait_for_selector("text=forty thousand two hundred and twenty eight", timeout=30000)
        assert page.locator("#canvas span").count() > 5
    pages.shutdown()
    assert len((repo_root / "examples" / "serve_page.html").read_text(encoding="utf-8").splitlines()) <= 36


def test_the_java_program_answers_as_python_does(repo_root: Path, tiny_bundle: Path) -> None:
    jars = repo_root / "android_demo" / "jvm" / "target" / "lib"
    if shutil.which("java") is None or not jars.is_dir():
        pytest.skip("needs a JDK and the jars that `make java-test` builds")
    command = ["java", "-cp", f"{jars}/*", str(repo_root / "examples" / "Ask.java"), str(tiny_bundle), REVERSED[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *steps, answer = done.stdout.splitlines()
    assert answer == REVERSED[1] and steps and all(line.startswith("step") for line in steps)
