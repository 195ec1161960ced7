"""The page in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, serving

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
QUESTION = "How do you say 40228?"
ANSWER = "forty thousand two hundred and twenty eight"
LONG = "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9."


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(["tiny"]) as found:
        found.chat("Reverse the word table.")
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium (apt-get install chromium)")
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (uv pip install playwright)")
    with sync.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, served: Served, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in a context of its own; nothing is asked of another server, and nothing goes wrong in its scripts."""
    context = browser.new_context(**getattr(request, "param", {}))
    found = context.new_page()
    asked, wrong = list[str](), list[str]()
    found.on("request", lambda one: asked.append(one.url))
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    found.goto(served.url)
    found.wait_for_selector("#model option", state="attached")
    yield found
    assert not wrong
    assert asked and all(url.startswith((served.url, "data:")) for url in asked)
    context.close()


def ask(page: Any, text: str, seed: int = 0) -> None:
    page.evaluate(f"document.querySelector('[name=seed]').value = {seed}")
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def until(holds: Callable[[], bool]) -> None:
    """Asked from here: the page's policy lets nobody evaluate strings in it, as Playwright would."""
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to be")


def whole(page: Any) -> None:
    page.wait_for_selector("#send:not([hidden])", timeout=30000)


def test_a_question_is_answered_and_its_canvas_is_seen(page: Any) -> None:
    page.evaluate(
        """() => { window.seen = [];
        new MutationObserver(() => { for (const one of document.querySelectorAll('.canvas span'))
          window.seen.push(one.className); }).observe(document.querySelector('#log'), {subtree: true, childList: true}); }"""
    )
    ask(page, QUESTION)
    whole(page)
    assert page.inner_text(".answer .text") == ANSWER
    seen = set(page.evaluate("window.seen.map((one) => one.split(' ')[0])"))
    assert seen == {"uncertain", "changed", "settled"}
    note = page.inner_text(".answer .note")
    assert re.search(r"11 tokens · 7 steps · [\d.e+]+ tokens/s", note), note
    assert page.inner_text("#status") == f"Answer: {ANSWER}"
    assert "only single questions" in page.inner_text("#empty") or page.is_hidden("#empty")


def test_the_replay_shows_every_step_again(page: Any) -> None:
    ask(page, QUESTION)
    whole(page)
    slider = page.locator(".replay input")
    assert slider.get_attribute("max") == "7" and page.inner_text(".replay small") == "7 / 7"
    slider.focus()
    slider.press("Home")
    assert page.inner_text(".replay small") == "1 / 7" and page.is_visible(".canvas span.uncertain")
    assert "step 1 of at most 16" in slider.get_attribute("aria-valuetext")
    page.select_option(".replay select", "4")
    page.click(".replay button")
    until(lambda: page.inner_text(".replay small") == "7 / 7")
    page.wait_for_selector(".answer .text:not([hidden])")
    assert page.inner_text(".answer .text") == ANSWER


def test_an_answer_is_stopped_and_the_conversation_goes_on(page: Any, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = served.server.models.find("tiny").loaded._engine
    call = engine._call

    def slow(graph: str, feeds: Any) -> Any:
        time.sleep(0.2)  # else the answer may be whole before the key is pressed
        return call(graph, feeds)

    with monkeypatch.context() as slowed:
        slowed.setattr(engine, "_call", slow)
        ask(page, LONG, seed=1)
        page.wait_for_selector(".canvas span")
        page.keyboard.press("Escape")
        whole(page)
        assert "Stopped" in page.inner_text(".answer .error")
        assert served.idle()
    ask(page, QUESTION)
    whole(page)
    assert page.locator(".answer .text").last.inner_text() == ANSWER


def test_a_conversation_survives_a_reload_and_is_forgotten_on_demand(page: Any) -> None:
    ask(page, QUESTION)
    whole(page)
    page.reload()
    page.wait_for_selector(".answer")
    assert page.inner_text(".asked") == QUESTION and page.inner_text(".answer .text") == ANSWER
    page.click("#new")
    assert page.locator(".asked").count() == 0
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    assert page.locator(".asked").count() == 0 and page.is_visible("#empty")


def test_two_decoders_stand_side_by_side(page: Any) -> None:
    page.click("#settings")
    page.select_option("[name=compare]", "1")
    page.click("#options button")
    ask(page, QUESTION)
    page.wait_for_selector(".answer")
    whole(page)
    assert page.locator(".answer h3").all_inner_texts() == ["diffusion", "autoregressive"]
    assert page.locator(".answer .text").all_inner_texts() == [ANSWER, ANSWER]
    assert all("computing" in note for note in page.locator(".answer .note").all_inner_texts())
    first, second = (page.locator(".answer").nth(i).bounding_box() for i in (0, 1))
    assert first["y"] == second["y"] and first["x"] < second["x"]


def test_what_the_server_refuses_is_said(page: Any) -> None:
    page.evaluate("document.querySelector('[name=start_width]').value = '65'")
    ask(page, QUESTION)
    whole(page)
    assert "start_width 65 must be auto, or at most the exported 64" in page.inner_text(".answer .error")


def test_a_broken_connection_is_said_and_keeps_what_was_committed(browser: Any) -> None:
    with serving(["tiny"], grace_s=0.1) as served:
        context = browser.new_context()
        page = context.new_page()
        page.goto(served.url)
        page.wait_for_selector("#model option", state="attached")
        page.evaluate(
            """() => { const real = window.fetch; window.fetch = async (url, options) => {
            const answer = await real(url, options);
            if (!String(url).includes('chat')) return answer;
            const reader = answer.body.getReader();
            let parts = 0;
            const cut = new ReadableStream({ async pull(to) {
              const {value, done} = await reader.read();
              if (done || ++parts > 2) { to.error(new TypeError('network error')); reader.cancel(); return; }
              const text = new TextDecoder().decode(value);  // one part may hold all of a short answer
              to.enqueue(new TextEncoder().encode(text.split('data: [DONE]')[0]));
            } });
            return new Response(cut, {status: answer.status, headers: answer.headers}); }; }"""
        )
        ask(page, LONG, seed=1)
        whole(page)
        assert "connection broke" in page.inner_text(".answer .error")
        context.close()
        assert served.idle()
    context = browser.new_context()
    page = context.new_page()
    with pytest.raises(Exception, match="ERR_CONNECTION_REFUSED"):
        page.goto(served.url)
    context.close()


@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": 360, "height": 640}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}],
    indirect=True,
)
def test_it_fits_a_phone(page: Any) -> None:
    ask(page, LONG, seed=1)
    whole(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = page.locator("#send").bounding_box()
    assert box["y"] + box["height"] <= 640 and min(box["width"], box["height"]) >= 44
    for selector in ("#new", "#theme", "#settings", ".replay button"):
        assert page.locator(selector).first.bounding_box()["height"] >= 40
    replay, log = page.locator(".replay").bounding_box(), page.locator("#log").bounding_box()
    assert replay["y"] + replay["height"] <= log["y"] + log["height"] + 1, "the end of the answer is in sight"
    page.locator("#settings").click()
    assert page.evaluate("[...document.querySelectorAll('dialog, dialog *')].every((one) => one.scrollWidth <= innerWidth)")
    dialog = page.locator("dialog").bounding_box()
    for one in page.locator("dialog select, dialog input").all():
        if one.is_visible():
            assert one.bounding_box()["x"] + one.bounding_box()["width"] <= dialog["x"] + dialog["width"]


def test_whoever_reads_further_up_is_not_taken_to_the_end(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 400})
    ask(page, LONG, seed=1)
    whole(page)
    ask(page, LONG, seed=2)
    page.evaluate("document.querySelector('#log').scrollTop = 0")
    whole(page)
    assert page.evaluate("document.querySelector('#log').scrollTop") == 0


def test_it_is_used_by_keyboard_and_named_for_readers(page: Any) -> None:
    assert page.evaluate("document.activeElement.id") == "prompt"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea')].filter((one) =>
        !(one.getAttribute('aria-label') || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "settings":
            break
    page.keyboard.press("Enter")
    assert page.is_visible("#options") and page.evaluate("document.querySelector('#options').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert page.is_hidden("#options")


def test_light_and_dark(page: Any) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert ground() == "rgb(246, 245, 241)"
    page.click("#theme")
    assert ground() == "rgb(14, 18, 21)"
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    assert ground() == "rgb(14, 18, 21)"


def test_a_page_behind_a_key_asks_for_it(browser: Any) -> None:
    with serving(["tiny"], api_key="a-long-secret") as served:
        context = browser.new_context()
        page = context.new_page()
        page.goto(served.url)
        until(lambda: "API key" in page.inner_text("#facts"))
        page.click("#settings")
        page.fill("[name=key]", "a-long-secret")
        page.click("#options button")
        page.wait_for_selector("#model option", state="attached")
        ask(page, QUESTION)
        whole(page)
        assert page.inner_text(".answer .text") == ANSWER
        context.close()


@pytest.mark.skipif("DGEMMA_SCREENSHOTS" not in os.environ, reason="DGEMMA_SCREENSHOTS names a folder to write pictures into")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_for_the_docs(browser: Any, served: Served, theme: str) -> None:
    out = Path(os.environ["DGEMMA_SCREENSHOTS"])
    for name, width, height in (("phone", 390, 700), ("desktop", 900, 560)):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=1.5)
        page = context.new_page()
        page.goto(served.url)
        page.wait_for_selector("#model option", state="attached")
        if name == "desktop":
            page.evaluate("document.querySelector('[name=compare]').value = '1'")
        else:
            ask(page, "Reverse the word lantern.")
            whole(page)
        ask(page, LONG if name == "desktop" else "In words: 540 150 913 309 110 935 519 298 221", seed=1)
        whole(page)
        if name == "phone":
            page.locator(".replay input").last.focus()
            page.keyboard.press("Home")
        page.screenshot(path=out / f"serve-{name}-{theme}.png")
        context.close()
