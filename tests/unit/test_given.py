"""Canvases of which something is known before the first step: templates and drafts; and lower entropy bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_checks import fails
from fake_bundle import BOS, END_OF_TURN, PAD, START, FakeEngine, N, fake_engine, fake_session, write_bundle

from dgemma.cli import dispatch
from dgemma.core.errors import PromptTooLong, TokenizerError, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.noise import canvas_words, step_words, token_from_word, uniform_from_word
from dgemma.core.template import read_template
from dgemma.core.trajectory import Trajectory
from dgemma.model import sampler
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.host_sampler import accept
from dgemma.runtime.given import from_draft
from dgemma.runtime.session import Session

PROMPT = [BOS, 50, 51, START]
QUESTION, ANSWER = (
    "Make a sentence: name Nina, item ladder, colour yellow, city Paris.",
    "Nina bought a yellow ladder in Paris.",
)
loops = pytest.mark.parametrize("options", [{}, {"early_commit": 0.01}, {"early_commit": 0.01, "recheck": True}], ids=str)


@pytest.fixture
def toy(tmp_path: Path) -> Session:
    return fake_session(tmp_path / "b", list(range(200, 240)))


@pytest.fixture(scope="module")
def tiny() -> Iterator[Session]:
    with Session.load("tiny") as session:
        yield session


def traced(session: Session, prompt: Any, **options: Any) -> Trajectory:
    found = session.generate(prompt, trace=True, **options).trajectory
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Dear {{8}}, come to {{12}}.", ("Dear ", 8, ", come to ", 12, ".")),
        ("{{1}}{{2}}", (1, 2)),
        ("{{3}} {x} {{y}}", (3, " {x} {{y}}")),
    ],
)
def test_templates_are_text_and_holes(text: str, pieces: tuple[str | int, ...]) -> None:
    assert read_template(text) == pieces


def test_the_text_of_a_template_stays_and_its_holes_are_the_models(toy: Session) -> None:
    tokenizer = toy.tokenizer
    assert tokenizer is not None
    a, b = tokenizer.encode("ab "), tokenizer.encode(" yz")
    length = len(a) + 3 + len(b)
    assert length < N
    result = toy.generate(PROMPT, template="ab {{3}} yz", trace=True)
    hole = tuple(range(200 + len(a), 203 + len(a)))  # what the toy says at these positions
    assert result.tokens == (*a, *hole, *b) and result.holes == (tokenizer.decode(hole),)
    assert (result.stop_reason, result.canvases) == ("stop", 1)
    assert toy.prefix_ids == (*PROMPT, *result.tokens, END_OF_TURN)
    trajectory = result.trajectory
    assert trajectory is not None
    pinned = np.ones(N, bool)
    pinned[len(a) : len(a) + 3] = False
    known = np.array([*a, 0, 0, 0, *b, END_OF_TURN, *[PAD] * (N - length - 1)])
    for array in (trajectory.canvas_in, trajectory.argmax, trajectory.canvas_out):
        assert (array[:, pinned] == known[pinned]).all() and (array[:, ~pinned] != known[~pinned]).any()
    assert trajectory.accepted[:, pinned].all() and not trajectory.entropy[:, pinned].any()
    assert toy.generate([9, START], continue_=True).tokens == tuple(range(200, 240))  # the prefix is in order


def test_a_template_may_take_several_canvases(toy: Session) -> None:
    """Its holes too: this one begins on the first canvas and ends on the second."""
    tokenizer = toy.tokenizer
    assert tokenizer is not None
    a, b, hole = tokenizer.encode("ab "), tokenizer.encode(" yz"), N + 2
    length, start = len(a) + hole + len(b), len(a)
    assert N < length < 2 * N
    result = toy.generate(PROMPT, template=f"ab {{{{{hole}}}}} yz", trace=True)
    assert (result.stop_reason, result.canvases, len(result.tokens)) == ("stop", 2, length)
    assert result.tokens[:start] == tuple(a) and result.tokens[start + hole :] == tuple(b)
    assert result.holes == (tokenizer.decode(result.tokens[start : start + hole]),)
    assert toy.prefix_ids == (*PROMPT, *result.tokens, END_OF_TURN)
    assert result.trajectory is not None
    for index, pinned in ((0, range(start)), (1, range(start + hole - N, N))):
        known = [*a, *[0] * hole, *b, END_OF_TURN, *[PAD] * N][index * N : (index + 1) * N]
        steps = result.trajectory.argmax[result.trajectory.canvas_index == index]
        assert len(steps) and (steps[:, pinned] == np.array(known)[pinned]).all()
    whole = toy.infill(f"{{{{{2 * N}}}}}", PROMPT)
    assert (whole.canvases, len(whole.tokens), toy.prefix_ids) == (2, 2 * N, (*PROMPT, *whole.tokens))


def test_a_template_that_the_context_cannot_hold_is_refused_before_work(toy: Session) -> None:
    toy.generate(PROMPT)
    before, room = toy.prefix_ids, toy.manifest.context
    with pytest.raises(PromptTooLong, match="leaves no room for"):
        toy.infill(f"{{{{{room - 1}}}}}", PROMPT, max_new_tokens=room)
    assert toy.prefix_ids == before


def test_a_stop_token_in_a_hole_does_not_end_the_answer(toy: Session) -> None:
    fake_engine(toy).answer = [END_OF_TURN, 201] * 20
    result = toy.infill("{{2}}yz", PROMPT)
    assert result.text.endswith("yz") and result.tokens[:2] == (END_OF_TURN, 201) and result.stop_reason == "stop"


@loops
def test_a_model_that_was_trained_fills_holes(tiny: Session, options: dict[str, Any]) -> None:
    """What follows a hole is on the canvas from the first step, and what was asked is in the prompt."""
    assert tiny.tokenizer is not None
    colour = len(tiny.tokenizer.encode(" yellow"))
    result = tiny.infill(f"Nina bought a{{{{{colour}}}}} ladder in Paris.", prompt=QUESTION, **options)
    assert result.text == ANSWER and result.holes == (" yellow",)
    told = tiny.infill(f"Nina bought a{{{{{colour}}}}} lamp in Rome.", QUESTION, **options)
    assert told.text == "Nina bought a yellow lamp in Rome."  # against the prompt, as pinned
    bare = tiny.infill("Dear {{3}}, please come.")
    assert bare.text.startswith("Dear ") and bare.text.endswith(", please come.")


@pytest.mark.parametrize("options", [{}, {"early_commit": 0.01}], ids=str)
def test_a_draft_of_nothing_but_noise_is_no_draft(tiny: Session, options: dict[str, Any]) -> None:
    plain, noise, half = (
        traced(tiny, QUESTION, **options, **more).arrays() for more in ({}, {"draft": "x", "strength": 1}, {"draft": "x"})
    )
    assert all(np.array_equal(plain[name], noise[name]) for name in plain)
    assert not np.array_equal(plain["canvas_in"], half["canvas_in"])


def test_a_draft_begins_as_its_strength_says(tiny: Session) -> None:
    manifest, text = tiny.manifest, "Nina bougt a yelow laddr in Pais."
    n, t = manifest.canvas_length, manifest.steps
    assert tiny.tokenizer is not None
    trajectory = traced(tiny, QUESTION, draft=text, strength=0.3, seed=5)
    ids = tiny.tokenizer.encode(text)
    ids += [5, *[0] * (n - len(ids) - 1)]  # the stop token that the chat template has, and padding
    noise = token_from_word(canvas_words(5, 0, n), manifest.model.vocab_size)
    stays = uniform_from_word(step_words(5, 0, t + 1, n)[0]) >= 0.3  # the stream behind those of all steps
    assert (trajectory.canvas_in[0] == np.where(stays, ids, noise)).all() and 0 < stays.sum() < n
    assert trajectory.step[0] == 5  # ⌈0.3 · 16⌉
    assert trajectory.temperature[0] == np.float32(manifest.sampler.temperature(5))
    assert tiny.generate(QUESTION, draft=text, strength=0.3).text == ANSWER
    long = from_draft(manifest, tiny.tokenizer, "word " * 90, 0.5)
    assert [len(canvas.ids) for canvas in long] == [n] * len(long) and len(long) > 1 and 5 in long[-1].ids


@pytest.mark.parametrize("seed", range(4))
def test_acceptance_is_that_of_the_graphs(seed: int) -> None:
    entropy = np.random.default_rng(seed).exponential(0.05, 64).astype(np.float32)
    entropy[::7] = entropy[0]  # ties, in which lower indices come first
    for bound in (0.001, 0.03, 0.3):
        assert (accept(entropy, bound) == sampler.accept(torch.from_numpy(entropy)[None], bound)[0].numpy()).all()


@pytest.mark.parametrize("options", [{}, {"early_commit": 1e-4}], ids=str)
def test_a_lower_entropy_bound_accepts_fewer(tiny: Session, options: dict[str, Any]) -> None:
    prompt = "Spell each of ugabemr jizeli edip pidu uaipai hujmu gacic."
    exported = tiny.manifest.sampler.entropy_bound
    plain, same = (traced(tiny, prompt, **options, **more).arrays() for more in ({}, {"entropy_bound": exported}))
    assert all(np.array_equal(plain[name], same[name]) for name in plain)
    low = traced(tiny, prompt, entropy_bound=1e-6, adaptive=False, **options)
    n, vocab = tiny.manifest.canvas_length, tiny.manifest.model.vocab_size
    first = low.canvas_index == 0
    assert 0 < low.accepted[first].sum() < n * first.sum()
    if not options:  # where all positions run, the whole step can be said again
        for i in np.flatnonzero(first):
            assert (low.accepted[i] == accept(low.entropy[i], 1e-6)).all()
            renoised = token_from_word(step_words(0, 0, int(i) + 1, n)[1], vocab)
            assert (low.canvas_out[i][~low.accepted[i]] == renoised[~low.accepted[i]]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"template": "no"}, r"has no hole; write \{\{8\}\} for one of 8 tokens"),
        ({"template": "{{0}}"}, "has a hole of 0 tokens"),
        ({"template": "{{3}}", "draft": "x"}, "give template or draft, not both"),
        ({"template": ""}, "template must be non-empty text"),
        ({"draft": ""}, "draft must be non-empty text"),
        ({"draft": "x", "strength": 0}, "strength 0 must be a number above 0 and at most 1"),
        ({"template": "{{3}}", "loop": "graph"}, "template needs decoder diffusion and loop host"),
        ({"draft": "x", "decoder": "autoregressive"}, "draft needs decoder diffusion"),
        ({"template": "{{3}}", "start_width": 4}, "leave start_width out"),
        ({"template": "{{3}}", "stop": "x"}, "leave stop out"),
        ({"entropy_bound": 0}, "entropy_bound 0 must be a positive number of nats"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        GenerateOptions.of(**options)


def test_what_a_bundle_cannot_do_is_refused(toy: Session, tmp_path: Path) -> None:
    for options, says in (
        ({"template": "{{999999999}}"}, "template has holes of 999999999 tokens, more than the context of"),
        ({"template": "{{9}}", "max_new_tokens": 8}, "template takes 9 tokens; max_new_tokens 8 is less"),
        ({"entropy_bound": 0.2}, "was exported before entropy_bound was supported; export it again"),
    ):
        with pytest.raises(UsageError, match=says):
            toy.generate(PROMPT, **options)
    with pytest.raises(UsageError, match="a template starts a new conversation; give one"):
        toy.infill("{{3}}", continue_=True)
    assert toy.prefix_ids == ()
    assert toy.infill(f"{{{{{N}}}}}", PROMPT).tokens == tuple(range(200, 200 + N))  # a whole canvas, without a stop token
    bundle = Bundle.open(write_bundle(tmp_path / "c", tokenizer=None, chat=None))
    with pytest.raises(TokenizerError, match="which template and draft need; leave them out"):
        Session(bundle, FakeEngine(bundle, [200])).generate(PROMPT, template="{{3}}")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = tmp_path / "draft.txt"
    draft.write_text("elbxt\n")
    asked = ["run", "tiny", "-p", "Reverse the word table."]
    assert dispatch([*asked, "--draft", str(draft), "--strength", "0.4"]) == 0
    assert dispatch(["run", "tiny", "--template", "{{2}}b{{1}}t", "-p", "Reverse the word table."]) == 0
    assert capsys.readouterr().out == "elbat\n" * 2
    assert dispatch(["run", "tiny", "--template", "Dear {{2}}, come."]) == 0  # needs no prompt
    assert capsys.readouterr().out.endswith(", come.\n")
    fails(capsys, [*asked, "--draft", str(tmp_path / "none")], "--draft", "cannot be read (No such file or directory)")
