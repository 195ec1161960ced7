"""Session logic over a toy model in numpy: prefix, canvases, stops, cancels, limits; and the engines' checks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import (
    BOS,
    CHUNK,
    CONTEXT,
    END_OF_TURN,
    EOS,
    MODEL,
    PAD,
    START,
    START_OF_TURN,
    STEPS,
    USER,
    VOCAB,
    FakeEngine,
    N,
    fake_engine,
    fake_session,
    graph_specs,
    write_bundle,
)

import dgemma
from dgemma.core import noise
from dgemma.core.errors import (
    PromptTooLong,
    TokenizerError,
    UsageError,
)
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.manifest import ChatTemplate
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Feeds
from dgemma.runtime.noise import canvas_noise
from dgemma.runtime.prefix import Prefix
from dgemma.runtime.session import Session

SHORT = list(range(200, 210))

LONG = list(range(200, 240))  # two canvases of 16 and half of a third

PROMPT = [BOS, 50, 51, START]

ANSWERED = [*PROMPT, *SHORT, END_OF_TURN]

both_loops = pytest.mark.parametrize("loop", ["host", "graph"])


@both_loops
def test_answer_stops_at_the_stop_token_and_the_prefix_holds_it(tmp_path: Path, loop: str) -> None:
    with fake_session(tmp_path / "b", SHORT) as session:
        result = session.generate(PROMPT, loop=loop)
        assert list(result.tokens) == SHORT
        assert (result.stop_reason, result.canvases, result.steps) == ("stop", 1, 4)  # stable from the third step on
        assert result.tokens_per_forward == len(SHORT) / 4
        assert (result.engine, result.loop) == ("onnx", loop)
        assert list(session.prefix_ids) == ANSWERED
        assert session.tokenizer is not None and result.text == session.tokenizer.decode(SHORT)
        times = vars(result.timings)
        assert all(t >= 0 for t in times.values()) and times["engine_s"] <= times["total_s"]


@both_loops
def test_either_stop_token_ends_an_answer(tmp_path: Path, loop: str) -> None:
    session = fake_session(tmp_path / "b", SHORT, stop=EOS)
    assert list(session.generate(PROMPT, loop=loop).tokens) == SHORT
    assert session.prefix_ids[-1] == EOS


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_both_loops_give_the_same_trajectory(tmp_path: Path, seed: int, adaptive: bool) -> None:
    session = fake_session(tmp_path / "b", LONG)
    host = session.generate(PROMPT, seed=seed, adaptive=adaptive, trace=True)
    graph = session.generate(PROMPT, seed=seed, adaptive=adaptive, trace=True, loop="graph")
    assert host.tokens == graph.tokens == tuple(LONG)
    assert host.steps == graph.steps == (3 * 4 if adaptive else 3 * STEPS)
    assert host.trajectory is not None and graph.trajectory is not None
    for name, array in vars(host.trajectory).items():
        np.testing.assert_array_equal(array, getattr(graph.trajectory, name), err_msg=name)


def test_other_seeds_give_other_canvases(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    one, two = (session.generate(PROMPT, seed=s, trace=True).trajectory for s in (0, 1))
    assert one is not None and two is not None and not np.array_equal(one.canvas_in, two.canvas_in)


def test_trajectory_follows_the_noise_contract(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", LONG)
    trajectory = session.generate(PROMPT, seed=5, adaptive=False, trace=True).trajectory
    assert trajectory is not None
    assert trajectory.prompt_ids.tolist() == PROMPT and trajectory.tokens.tolist() == LONG
    assert trajectory.canvas_index.tolist() == [c for c in range(3) for _ in range(STEPS)]
    assert trajectory.step.tolist() == list(range(STEPS, 0, -1)) * 3
    expected = [np.float32(0.4 + (0.8 - 0.4) * (r / STEPS)) for r in range(STEPS, 0, -1)] * 3
    assert trajectory.temperature.tolist() == expected
    for canvas in range(3):
        first = trajectory.canvas_in[canvas * STEPS]
        np.testing.assert_array_equal(first, noise.token_from_word(noise.canvas_words(5, canvas, N), VOCAB))
        for i in range(STEPS):
            row = canvas * STEPS + i
            renoised = noise.token_from_word(noise.step_words(5, canvas, i + 1, N)[1], VOCAB)
            open_ = ~trajectory.accepted[row]
            np.testing.assert_array_equal(trajectory.canvas_out[row][open_], renoised[open_])
            if i:
                np.testing.assert_array_equal(trajectory.canvas_in[row], trajectory.canvas_out[row - 1])


def test_noise_of_a_canvas_in_one_call_is_that_of_the_contract() -> None:
    initial, words = canvas_noise(2**63 + 12345, 3, 5, 12)
    np.testing.assert_array_equal(initial, noise.canvas_words(2**63 + 12345, 3, 12))
    for step in range(5):
        np.testing.assert_array_equal(words[step], noise.step_words(2**63 + 12345, 3, step + 1, 12))


@both_loops
def test_full_canvases_are_committed_and_encoded_only_when_something_follows(tmp_path: Path, loop: str) -> None:
    session = fake_session(tmp_path / "b", LONG)
    result = session.generate(PROMPT, loop=loop)
    assert list(result.tokens) == LONG and result.canvases == 3 and result.stop_reason == "stop"
    assert fake_engine(session).encoded == [len(PROMPT), N, N]  # the last canvas waits
    session.generate([START], continue_=True, loop=loop)
    assert fake_engine(session).encoded[3:] == [8 + 1 + 1, N, N]  # its tokens, the stop token, the new prompt


@both_loops
@pytest.mark.parametrize(
    ("most", "tokens", "canvases", "reason"),
    [(1, 1, 1, "length"), (N, N, 1, "length"), (20, 20, 2, "length"), (40, 40, 3, "stop"), (39, 39, 3, "length")],
)
def test_limit(tmp_path: Path, loop: str, most: int, tokens: int, canvases: int, reason: str) -> None:
    session = fake_session(tmp_path / "b", LONG)
    result = session.generate(PROMPT, max_new_tokens=most, loop=loop)
    assert list(result.tokens) == LONG[:tokens]
    assert (result.canvases, result.stop_reason) == (canvases, reason)
    assert list(session.prefix_ids) == [*PROMPT, *LONG[:tokens], *([END_OF_TURN] if reason == "stop" else [])]


def test_long_prompts_are_encoded_in_chunks(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    prompt = [*range(100, 100 + 2 * CHUNK + 11), START]
    assert list(session.generate(prompt).tokens) == SHORT  # the toy reads the prompt back out of the caches
    assert fake_engine(session).encoded == [CHUNK, CHUNK, 12]


def test_prefixes_are_handed_out_in_multiples_of_64_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    slots: list[tuple[int, ...]] = []
    run = FakeEngine.run

    def counted(self: FakeEngine, graph: str, feeds: Feeds) -> Feeds:
        slots.append(tuple(feeds[f"prefix_key_{layer}"].shape[1] for layer in (1, 0)))
        return run(self, graph, feeds)

    monkeypatch.setattr(FakeEngine, "run", counted)
    session.generate([*[50] * 99, START])
    # the sliding layer sees 7 tokens: from 71 on it needs none of the first 64 slots
    assert sorted(set(slots)) == [(64, 64), (128, 64)]


def test_a_graph_without_a_dimension_for_them_gets_all_slots_in_sliding_layers_too(tmp_path: Path) -> None:
    graphs = {}
    for name, graph in graph_specs("onnx").items():
        inputs = [replace(t, shape=tuple("S" if d == "L" else d for d in t.shape)) for t in graph.inputs]
        graphs[name] = replace(graph, inputs=tuple(inputs))
    bundle = Bundle.open(write_bundle(tmp_path / "b", graphs={"onnx": graphs}))
    prefix = Prefix(FakeEngine(bundle))
    prefix.extend([50] * 100)
    prefix.encode(lambda: False)
    assert {cache.shape[1] for cache in prefix.feeds("denoise").values()} == {128}


@both_loops
def test_context_ends_an_answer_between_canvases(tmp_path: Path, loop: str) -> None:
    session = fake_session(tmp_path / "b", [200] * 500)
    prompt = [*[50] * (CONTEXT - 2 * N - 2), START]  # room for two canvases and one token
    result = session.generate(prompt, max_new_tokens=100, loop=loop)
    assert (result.stop_reason, result.canvases, len(result.tokens)) == ("context", 2, 2 * N)


def test_a_prompt_fills_the_context_exactly_or_is_refused(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    session.generate(PROMPT)
    with pytest.raises(PromptTooLong, match="177"):
        session.generate([*[50] * (CONTEXT - N), START])
    with pytest.raises(PromptTooLong):
        session.generate([50] * (CONTEXT - N - len(ANSWERED) + 1), continue_=True)
    assert list(session.prefix_ids) == ANSWERED  # a refused request changes nothing
    assert session.generate([*[50] * (CONTEXT - N - 1), START]).stop_reason == "stop"


def test_numpy_ids_and_seed_are_accepted(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    result = session.generate(np.array(PROMPT), seed=np.uint64(3))  # type: ignore[arg-type]
    assert list(result.tokens) == SHORT and {type(i) for i in session.prefix_ids} == {int}


def test_chat_turns_keep_the_prefix(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    assert session.tokenizer is not None
    hi, bye = session.tokenizer.encode("hi"), session.tokenizer.encode("bye")
    session.generate("hi")
    turn = [BOS, START_OF_TURN, USER, *hi, END_OF_TURN, START, START_OF_TURN, MODEL, START]
    assert list(session.prefix_ids) == [*turn, *SHORT, END_OF_TURN]
    session.generate("bye", continue_=True, max_new_tokens=3)
    turn += [*SHORT, END_OF_TURN, START, START_OF_TURN, USER, *bye, END_OF_TURN, START, START_OF_TURN, MODEL, START]
    assert list(session.prefix_ids) == [*turn, *SHORT[:3]]
    session.generate("hi", continue_=True)  # the cut answer gets the stop token that it lacks
    assert list(session.prefix_ids)[len(turn) :][:6] == [*SHORT[:3], END_OF_TURN, START, START_OF_TURN]
    session.reset()
    assert session.prefix_ids == ()
    session.generate("hi", raw=True, continue_=True) if START in hi else None
    session.generate("bye", continue_=True)
    assert session.prefix_ids[0] == BOS  # after a reset a conversation starts anew


def test_raw_text_is_encoded_as_it_is(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    assert session.tokenizer is not None
    session.generate("hello\n", raw=True)
    ids = session.tokenizer.encode("hello\n")
    assert list(session.prefix_ids) == [*ids, *SHORT, END_OF_TURN]


def test_bundles_without_tokenizer_or_template(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "a", tokenizer=None))
    session = Session(bundle, FakeEngine(bundle, SHORT))
    assert session.generate(PROMPT).text == ""
    with pytest.raises(TokenizerError, match="give the prompt as ids"):
        session.generate("hi")
    bundle = Bundle.open(write_bundle(tmp_path / "b", chat=None))
    with pytest.raises(UsageError, match="use raw text, or ids"):
        Session(bundle, FakeEngine(bundle, SHORT)).generate("hi")


def test_rewind_checks_its_length(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    session.generate(PROMPT)
    for wrong in (-1, len(ANSWERED) + 1, "2"):
        with pytest.raises(UsageError, match="rewind"):
            session.rewind(wrong)  # type: ignore[arg-type]
    session.rewind(2)
    assert list(session.prefix_ids) == ANSWERED[:2]


@both_loops
def test_events_tell_each_step(tmp_path: Path, loop: str) -> None:
    session = fake_session(tmp_path / "b", LONG)
    seen: list[tuple[int, int, int, int, str]] = []
    session.generate(
        PROMPT,
        loop=loop,
        on_step=lambda e: seen.append((e.canvas_index, e.step, e.remaining, len(e.committed), e.text())),
    )
    assert [s[:4] for s in seen] == [(c, i + 1, STEPS - i, c * N) for c in range(3) for i in range(4)]
    assert session.tokenizer is not None
    assert [seen[3][4], seen[7][4], seen[11][4]] == [session.tokenizer.decode(LONG[:k]) for k in (16, 32, 40)]


@both_loops
def test_adaptive_stop_needs_low_entropy(tmp_path: Path, loop: str) -> None:
    session = fake_session(tmp_path / "b", SHORT, entropy_floor=0.0051)  # the threshold is 0.005
    assert session.generate(PROMPT, loop=loop).steps == STEPS
    fake_engine(session).entropy_floor = 0.0049
    assert session.generate(PROMPT, loop=loop).steps == 4


@pytest.mark.parametrize("answer", [SHORT, LONG])
def test_greedy_decoding_gives_the_same_answer_token_by_token(tmp_path: Path, answer: list[int]) -> None:
    session = fake_session(tmp_path / "b", answer)
    result = session.decode_greedy(PROMPT)
    assert (list(result.tokens), result.stop_reason, result.loop) == (answer, "stop", "decode")
    assert result.steps == len(answer) + 1 and list(session.prefix_ids) == [*PROMPT, *answer, END_OF_TURN]
    calls = fake_engine(session).calls
    assert calls.count("encode") == 1 and calls.count("decode") == len(answer) + 1
    assert session.decode_greedy([START], max_new_tokens=2).stop_reason == "length"  # nothing to encode first


def test_greedy_decoding_at_the_end_of_the_context(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", [200] * 500)
    result = session.decode_greedy([*[50] * (CONTEXT - 6), START], max_new_tokens=100)
    assert result.stop_reason == "context" and len(session.prefix_ids) == CONTEXT
    with pytest.raises(PromptTooLong):
        session.decode_greedy([50] * CONTEXT)


def test_importing_the_runtime_loads_no_engine_and_no_torch() -> None:
    code = """
import sys, dgemma, dgemma.runtime
from dgemma import Session, DgemmaError, PromptTooLong
heavy = {"torch", "onnx", "onnxruntime", "transformers", "executorch", "sentencepiece", "tokenizers", "typer", "rich"}
print(sorted(heavy & set(sys.modules)))
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"


def test_lazy_attributes() -> None:
    assert dgemma.Session is Session and dgemma.PromptTooLong is PromptTooLong and "Session" in dir(dgemma)
    with pytest.raises(AttributeError):
        dgemma.nothing  # noqa: B018


def test_chat_template_parts_are_all_used(tmp_path: Path) -> None:
    chat = ChatTemplate(start=(11,), user_prefix=(12,), user_suffix=(13,), model_prefix=(START,), model_suffix=(14,))
    bundle = Bundle.open(write_bundle(tmp_path / "b", chat=chat))
    session = Session(bundle, FakeEngine(bundle, SHORT, stop=EOS))
    assert session.tokenizer is not None
    hi = session.tokenizer.encode("hi")
    for _ in range(2):
        session.generate("hi", continue_=True)
    turn = [12, *hi, 13, START, *SHORT, EOS]
    assert list(session.prefix_ids) == [11, *turn, 14, *turn]


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"early_commit": 0.01}, "was exported without 'denoise_active'; export it again"),
        ({"early_commit": 0.01, "loop": "graph"}, "early_commit needs loop host"),
        ({"early_commit": 0.0}, "must be a positive number of nats"),
        ({"early_commit": float("nan")}, "must be a positive number of nats"),
        ({"early_commit": True}, "must be a positive number of nats"),
        ({"recheck": True}, "give early_commit or start_width as well"),
        ({"start_width": 4}, "export it again, or leave start_width out"),
        ({"speculate": True}, "was exported without 'denoise_active'"),
        ({"start_width": 0}, "start_width 0 must be auto, or a number of positions"),
        ({"start_width": 4000}, "start_width 4000 must be auto, or at most the"),
        ({"start_width": "narrow"}, "start_width 'narrow' must be auto"),
    ],
)
def test_a_policy_that_cannot_be_is_said(tmp_path: Path, options: dict[str, Any], phrase: str) -> None:
    with fake_session(tmp_path / "b", SHORT) as session, pytest.raises(UsageError, match=phrase):
        session.generate("hi", **options)


def test_old_keywords_warn_where_they_are_written(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    with pytest.warns(DeprecationWarning, match="early_commit") as seen, pytest.raises(UsageError, match="denoise_active"):
        session.generate("hi", settle=0.1)
    assert seen[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="early_commit") as seen:
        session.stream("hi", settle=0.1)
    assert seen[0].filename == __file__


def test_options_are_given_once(tmp_path: Path) -> None:
    options = GenerateOptions(max_new_tokens=3, seed=2, trace=True)
    with fake_session(tmp_path / "b", SHORT) as session:
        result, same = session.generate("hi", options), session.generate("hi", max_new_tokens=3, seed=2, trace=True)
        assert result.tokens == same.tokens == tuple(SHORT[:3]) and result.trajectory is not None
        with pytest.raises(UsageError, match="such as seed, not both"):
            session.generate("hi", options, seed=3)


@pytest.mark.parametrize("loop", ["host", "graph"])
def test_padding_in_place_of_a_stop_token_is_no_answer(tmp_path: Path, loop: str) -> None:
    session = fake_session(tmp_path / "b", [200, PAD, 201, *[PAD] * 200])
    result = session.generate(PROMPT, max_new_tokens=2 * N, loop=loop)
    assert result.tokens == (200, PAD, 201, *[PAD] * (2 * N - 3)) and result.stop_reason == "length"
    assert (result.pads, result.count) == (2 * N - 3, 3)
    assert result.tokens_per_forward == 3 / result.steps and result.position_forwards_per_token == result.position_forwards / 3
    assert session.prefix_ids == (*PROMPT, 200, PAD, 201)
    assert session.generate([7], max_new_tokens=4, loop=loop, continue_=True).stop_reason == "length"  # from there on
    greedy = session.decode_greedy(PROMPT, max_new_tokens=8)
    assert (greedy.pads, session.prefix_ids) == (5, (*PROMPT, 200, PAD, 201))
    stopped = fake_session(tmp_path / "c", [200, PAD]).generate(PROMPT)
    assert (stopped.tokens, stopped.pads, stopped.stop_reason) == ((200, PAD), 0, "stop")
