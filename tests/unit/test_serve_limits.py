"""What a server does when it is busy, told to stop, or asked by clients that leave, wait, lie or send nonsense."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import FakeEngine, N, write_bundle
from served import Served, serving

from dgemma.core.errors import BundleError, UsageError
from dgemma.runtime import session as session_module
from dgemma.serve.app import create_app
from dgemma.serve.streams import Gone, impatient

LONG = [*range(200, 280)]  # six canvases, by a model that says the same to every prompt
PROMPT = "Reverse the word table."


class _Slow(FakeEngine):
    """Takes `pause` seconds for a step."""

    pause = 0.0

    def _denoise(self, feeds: Any) -> Any:
        time.sleep(type(self).pause)
        return super()._denoise(feeds)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "toy.dgemma")


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Slow]]:
    monkeypatch.setattr(session_module, "open_engine", lambda bundle, *_: _Slow(bundle, LONG))
    _Slow.pause = 0.0
    yield _Slow
    _Slow.pause = 0.0


def body(**more: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": PROMPT}], **more}


def engine(served: Served) -> _Slow:
    found = served.server.models.find("toy").loaded._engine
    assert isinstance(found, _Slow)
    return found


def opened(served: Served, **more: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A stream whose first line has come."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    data = json.dumps(body(stream=True, **more))
    connection.request("POST", "/v1/chat/completions", data, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.readline()
    return connection, answer


def events(text: bytes) -> list[Any]:
    """Data of a stream's events."""
    return [json.loads(line[6:]) for line in text.decode().splitlines() if line.startswith("data: {")]


def test_more_requests_than_there_is_room_for_are_told_to_come_again(bundle: Path) -> None:
    with serving([bundle], max_requests=1) as served:
        _Slow.pause = 0.02
        connection, answer = opened(served)
        status, found, headers = served.request("POST", "/v1/chat/completions", body())
        assert (status, found["error"]["code"], found["error"]["type"]) == (429, "queue_full", "rate_limit_error")
        assert 1 <= int(headers["retry-after"]) <= 60
        assert events(answer.read())[-1]["choices"][0]["finish_reason"] == "stop"
        connection.close()
        assert served.idle() and served.request("POST", "/v1/chat/completions", body())[0] == 200


def test_a_client_that_leaves_ends_its_generation_before_the_next_step(bundle: Path) -> None:
    with serving([bundle]) as served:
        served.request("POST", "/v1/chat/completions", body())
        calls = engine(served).calls
        _Slow.pause, before = 0.05, len(calls)
        connection, answer = opened(served)
        answer.close()
        connection.close()
        assert served.idle()
        whole = 6 * 4  # canvases and their steps
        assert calls[before:].count("denoise") < whole / 2
        _Slow.pause = 0.0
        assert served.request("POST", "/v1/chat/completions", body())[1]["usage"]["completion_tokens"] == len(LONG)
        assert b'dgemma_cancelled_total{reason="disconnect"} 1.0' in served.request("GET", "/metrics")[1]


def test_a_short_request_does_not_wait_for_a_long_one(bundle: Path) -> None:
    with serving([bundle]) as served:
        served.request("POST", "/v1/chat/completions", body())
        _Slow.pause = 0.02
        connection, answer = opened(served)
        (long,) = served.server.jobs._running
        short = served.request("POST", "/v1/chat/completions", body(max_tokens=5))[1]
        assert short["usage"]["waited_turns"] <= 2
        assert not long.ended.is_set(), "the long one has ended before the short one"
        assert events(answer.read())[-1]["choices"][0]["finish_reason"] == "stop"
        connection.close()


def test_an_answer_that_takes_too_long_is_an_error(bundle: Path) -> None:
    asked = {
        "/v1/chat/completions": body(stream=True),
        "/v1/responses": {"model": "toy", "input": PROMPT, "stream": True},
    }
    with serving([bundle], timeout_s=1.0) as served:
        served.request("POST", "/v1/chat/completions", body())
        _Slow.pause = 0.5
        for path, one in (("/v1/chat/completions", body()), *asked.items()):
            status, found, _ = served.request("POST", path, one)
            assert (status, found["error"]["code"]) == (504, "timeout"), path
        _Slow.pause = 0.1  # the first canvas is in time, and so the streams have begun
        status, text, _ = served.request("POST", "/v1/chat/completions", asked["/v1/chat/completions"])
        assert status == 200 and events(text)[-1]["error"]["code"] == "timeout" and b"[DONE]" not in text
        status, text, _ = served.request("POST", "/v1/responses", asked["/v1/responses"])
        assert events(text)[-1]["type"] == "response.failed" and events(text)[-1]["response"]["error"]["code"] == "timeout"


def test_a_stream_on_which_nothing_happens_is_kept_alive(bundle: Path) -> None:
    with serving([bundle], keep_alive_s=0.05) as served:
        served.request("POST", "/v1/chat/completions", body())
        _Slow.pause = 0.1
        text = served.request("POST", "/v1/chat/completions", body(stream=True, max_tokens=5))[1]
        assert text.count(b": keep-alive\n\n") >= 2 and b"[DONE]" in text


def test_a_server_that_stops_lets_answers_end_and_takes_no_new_ones(bundle: Path) -> None:
    with serving([bundle]) as served:
        served.request("POST", "/v1/chat/completions", body())
        loop = asyncio.new_event_loop()
        _Slow.pause = 0.02
        connection, answer = opened(served)
        served.server.jobs.stopping = True
        status, found, headers = served.request("POST", "/v1/chat/completions", body())
        assert (status, found["error"]["code"]) == (503, "overloaded") and "retry-after" in headers
        assert served.request("GET", "/health")[:2][0] == 503
        assert events(answer.read())[-1]["choices"][0]["finish_reason"] == "stop"
        connection.close()
        loop.close()


def test_what_has_not_ended_when_a_server_stops_is_told(bundle: Path) -> None:
    with serving([bundle], grace_s=0.2) as served:
        served.request("POST", "/v1/chat/completions", body())
        _Slow.pause = 0.3
        connection, answer = opened(served)
        server = served.server
        job = next(iter(server.jobs._running))
        asyncio.run_coroutine_threadsafe(server.jobs.stop(0.2), job._loop).result(20)
        told = events(answer.read())[-1]["error"]
        assert told["code"] == "overloaded" and "stopped before the answer was complete" in told["message"]
        connection.close()


def test_an_engine_that_fails_is_an_error_without_its_story(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving([bundle]) as served:
        served.request("POST", "/v1/chat/completions", body())
        engine(served).fail_on = "denoise"
        with caplog.at_level(logging.ERROR, "dgemma.serve"):
            status, found, _ = served.request("POST", "/v1/chat/completions", body())
            streamed = served.request("POST", "/v1/chat/completions", body(stream=True))[:2]
        assert (status, found["error"]["code"]) == (500, "engine_error") and "unhappy" not in json.dumps(found)
        assert streamed == (status, found)
        assert "native code is unhappy" in caplog.text
        engine(served).fail_on = None
        assert served.request("POST", "/v1/chat/completions", body())[0] == 200


def test_prompts_are_in_the_log_only_where_that_was_asked_for(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    for asked in (False, True):
        caplog.clear()
        with caplog.at_level(logging.DEBUG), serving([bundle], log_prompts=asked) as served:
            served.request("POST", "/v1/chat/completions", body())
            served.request("POST", "/v1/chat/completions", body(user=5))
        assert (PROMPT in caplog.text) == asked and "POST /v1/chat/completions 400" in caplog.text


def test_bundles_are_loaded_when_asked_for_and_make_room_for_each_other(bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other.dgemma")
    gone = shutil.copytree(bundle, tmp_path / "gone.dgemma")
    with serving([bundle, other, gone], memory_bytes=1) as served:
        shutil.rmtree(gone)
        assert served.request("POST", "/v1/chat/completions", body())[0] == 200

        def loaded() -> list[str]:
            return [name for name, there in served.request("GET", "/health")[1]["models"].items() if there]

        assert loaded() == ["toy"]
        assert served.request("POST", "/v1/chat/completions", body(model="other"))[0] == 200
        assert loaded() == ["other"] and served.server.pool.counts == (0, 1)
        status, found, _ = served.request("POST", "/v1/chat/completions", body(model="gone"))
        assert (status, found["error"]["code"]) == (503, "model_unusable") and str(tmp_path) not in json.dumps(found)
        shutil.rmtree(other)  # what is loaded needs its files no more
        assert served.request("POST", "/v1/chat/completions", body())[0] == 200
    with pytest.raises(UsageError, match="another bundle is called toy"):
        create_app([bundle, shutil.copytree(bundle, tmp_path / "toy.dgemma")])
    with pytest.raises(BundleError):
        create_app([tmp_path / "absent"])


def test_conversations_are_kept_within_their_memory(bundle: Path) -> None:
    with serving([bundle], cache_bytes=1) as served:
        for number in range(4):
            assert served.request("POST", "/v1/chat/completions", body(user=str(number)))[0] == 200
        assert served.server.pool.counts == (0, 0)
    with serving([bundle]) as served:
        for text in ("a", "b", *(f"{number} {PROMPT * 3}" for number in range(4))):  # the first two are no whole chunk
            question = [{"role": "user", "content": text}]
            assert served.request("POST", "/v1/chat/completions", body(messages=question, max_tokens=5))[0] == 200
        assert served.server.pool.counts == (0, 4)
        at_work, resting = served.server.pool.sizes
        assert at_work == 0 < resting


def test_requests_wait_for_room_in_the_order_in_which_they_came(bundle: Path) -> None:
    with serving([bundle], cache_bytes=1) as served:  # room for one at a time
        served.request("POST", "/v1/chat/completions", body())
        _Slow.pause = 0.02
        first, answer = opened(served)
        waiting = threading.Thread(target=served.request, args=("POST", "/v1/chat/completions", body(max_tokens=5)))
        waiting.start()
        while len(served.server.jobs) < 2:
            time.sleep(0.01)
        assert served.server.pool.counts == (1, 0)
        assert events(answer.read())[-1]["choices"][0]["finish_reason"] == "stop"
        waiting.join(20)
        first.close()
        assert served.idle()


def test_a_client_that_leaves_while_a_bundle_is_loaded_does_not_end_the_loading(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_times: list[float] = []
    real = session_module.Session.load

    def load(*args: Any, **more: Any) -> Any:
        opened_times.append(time.monotonic())
        time.sleep(0.4)
        return real(*args, **more)

    monkeypatch.setattr(session_module.Session, "load", load)
    with serving([bundle]) as served:
        data = json.dumps(body()).encode()
        with socket.create_connection(("127.0.0.1", served.port)) as leaving:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            leaving.sendall(head + f"content-length: {len(data)}\r\n\r\n".encode() + data)
            time.sleep(0.1)
        assert served.request("POST", "/v1/chat/completions", body())[0] == 200
    assert len(opened_times) == 1


def test_a_client_that_takes_nothing_is_given_up() -> None:
    aborted = threading.Event()

    async def run() -> None:
        async def stuck(message: Any) -> None:
            await asyncio.sleep(60)

        with pytest.raises(Gone):
            await impatient({"type": "http", "state": {"abort": aborted.set}}, stuck, 0.05)({"type": "http.response.body"})

    asyncio.run(run())
    assert aborted.is_set()


def test_a_slow_client_misses_frames_and_no_text(bundle: Path) -> None:
    from dgemma.serve import jobs

    with serving([bundle]) as served, pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "FRAMES_AHEAD", 1)
        text = served.request("POST", "/v1/chat/completions", body(stream=True, frames=True))[1]
        frames = [one["dgemma.frame"] for one in events(text) if "dgemma.frame" in one]
        assert frames and sum(frame["missed"] for frame in frames) + len(frames) <= 6 * 4
        assert len(frames[0]["ids"]) == N
        said = "".join(choice["delta"].get("content") or "" for one in events(text) for choice in one["choices"])
        assert said == served.request("POST", "/v1/chat/completions", body())[1]["choices"][0]["message"]["content"]
