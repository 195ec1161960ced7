"""Probabilities of choices: the chain rule on a distribution that is known, steps beside the model's logits, and a bundle."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import micro
import numpy as np
import pytest
import torch
from eager_engine import eager_session
from fake_structured import structured_session

from dgemma.core.errors import UsageError
from dgemma.core.noise import canvas_words, token_from_word
from dgemma.runtime.cut_draw import Candidates
from dgemma.runtime.session import Session
from dgemma.runtime.structure.choices import Ids, log_probabilities, normalized

VOCAB, STOP = 5, 0


def test_the_chain_rule_gives_back_a_known_distribution() -> None:
    """Texts of up to two ids with made-up probabilities: the conditional ones of each position lead to the joint ones."""
    texts: list[Ids] = [t for length in range(3) for t in itertools.product(range(1, VOCAB), repeat=length)]
    draw = np.random.default_rng(0)
    joint = dict(zip(texts, draw.dirichlet(np.ones(len(texts))), strict=True))
    ran: list[Ids] = []

    def behind(begun: Ids) -> Candidates:
        ran.append(begun)
        mass = np.zeros(VOCAB)
        for text, p in joint.items():
            if text[: len(begun)] == begun:
                mass[text[len(begun)] if len(text) > len(begun) else STOP] += p
        order = np.argsort(-mass)
        return Candidates(order[None], np.log(np.maximum(mass[order] / mass.sum(), 1e-30)).astype(np.float32)[None])

    choices: list[Ids] = [(1, 2), (1, 3), (4,), ()]
    found = log_probabilities(choices, [STOP], VOCAB, behind)
    assert found == pytest.approx([math.log(joint[choice]) for choice in choices], abs=1e-5)
    assert sorted(ran) == [(), (1,), (1, 2), (1, 3), (4,)]  # once each
    shares = normalized(found)
    whole = sum(joint[choice] for choice in choices)
    assert sum(shares) == pytest.approx(1) and shares == pytest.approx([joint[choice] / whole for choice in choices], abs=1e-5)


def test_a_step_is_of_the_canvas_that_begins_so(tmp_path: Path) -> None:
    model, begun, length = micro.model(), (7, 250, 31), 9
    with eager_session(tmp_path / "b") as session:
        session.generate(micro.prompt(length), max_new_tokens=1)
        session._generator.prefix.truncate(length)
        found = session._generator._loops.behind(session._generator.prefix, 5, begun)
    canvas = token_from_word(canvas_words(5, 0, micro.N), micro.VOCAB)
    with torch.no_grad():
        for ids in (begun, (7, 251, 31)):  # the second is the control
            canvas[: len(ids)] = ids
            logits = model.denoise(torch.from_numpy(canvas)[None], torch.zeros(1, micro.N, 32), micro.prefix(model, 9, 9), 9)
            wanted = logits[0, len(begun)].log_softmax(-1)
            same = np.allclose(found.log_probs[0], wanted[torch.from_numpy(found.ids[0])].numpy(), atol=1e-4)
            assert same == (ids == begun)


@pytest.mark.parametrize("compute", [{}, {"early_commit": 0.01}], ids=str)
def test_a_bundle_gives_them(compute: dict[str, float]) -> None:
    with Session.load("tiny") as session:
        plain = session.generate("Reverse the word table.", choices=["elbat", "chair", "elba"], **compute)  # type: ignore[arg-type]
        found = session.generate(
            "Reverse the word table.",
            choices=["elbat", "chair", "elba"],
            choice_probabilities=True,
            **compute,  # type: ignore[arg-type]
        )
    assert plain.choice_probabilities is None and "choice_probabilities" not in plain.to_dict()
    assert found.text == plain.text == "elbat" and found.steps == plain.steps
    assert found.position_forwards > plain.position_forwards
    shares = found.to_dict()["choice_probabilities"]
    assert list(shares) == ["elbat", "chair", "elba"] and sum(shares.values()) == pytest.approx(1)
    assert shares["elbat"] > 0.9 > 0.1 > shares["elba"] > 0


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    session = structured_session(tmp_path / "b", [200, 201])
    with pytest.raises(UsageError, match="choice_probabilities needs choices; give them"):
        session.generate("x", regex="a+", choice_probabilities=True)
    with pytest.raises(UsageError, match="choice_probabilities need choices of at most 15 tokens, and one has"):
        session.generate("x", choices=["a", "b" * 40], choice_probabilities=True)
