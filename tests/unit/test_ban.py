"""Texts that are banned become ids, of one token each, with and without a space before them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from cli_checks import fails

from dgemma.cli import dispatch
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.runtime.ban import with_bans
from dgemma.runtime.session import Session

PROMPT = "Reverse the word table."  # tiny says: elbat


@pytest.fixture(scope="module")
def tiny() -> Iterator[Session]:
    with Session.load("tiny", threads=1) as session:
        yield session


def test_a_text_is_one_token_with_and_without_a_space(tiny: Session) -> None:
    assert tiny.tokenizer is not None
    options = with_bans(GenerateOptions(ban=["e", 7], seed=3), tiny.tokenizer, tiny.bundle)
    ids = [i for i, bias in options.sampler.bias if bias == -math.inf]
    assert 7 in ids and {tiny.tokenizer.decode([i]).strip() for i in ids if i != 7} == {"e"} and options.ban == ()
    assert options.seed == 3 and with_bans(options, None, tiny.bundle) is options
    with pytest.raises(UsageError, match=r"ban 'Reverse the word' takes .* tokens, which other texts need as well"):
        with_bans(GenerateOptions(ban="Reverse the word"), tiny.tokenizer, tiny.bundle)


def test_ids_may_be_numpys_and_lie_in_the_vocabulary(tiny: Session) -> None:
    options = with_bans(GenerateOptions(ban=[np.int64(5)]), tiny.tokenizer, tiny.bundle)  # type: ignore[list-item]
    assert options.sampler.bias == ((5, -math.inf),)
    with pytest.raises(UsageError, match=r"^ban: id 618 is outside the vocabulary of 618"):
        tiny.generate(PROMPT, ban=["e", 618])
    with pytest.raises(UsageError, match="ban b'cat' must be ids or non-empty texts"):
        GenerateOptions(ban=b"cat")


def test_it_does_not_come_up(tiny: Session) -> None:
    plain = tiny.generate(PROMPT)
    assert tiny.tokenizer is not None and plain.text == "elbat"
    tiny.reset()
    banned = tiny.generate(PROMPT, ban=[int(plain.tokens[0])])
    assert plain.tokens[0] not in banned.tokens and banned.text != plain.text
    tiny.reset()
    samples = tiny.sample(PROMPT, n=2, ban=[int(plain.tokens[0])])
    assert samples.results[0].tokens == banned.tokens


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["run", "tiny", "-p", PROMPT]
    assert dispatch([*base, "--json", "--logprobs", "2", "--top-p", "0.9", "--min-p", "0.01", "--top-k", "8"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == "elbat" and [one["id"] for one in found["logprobs"]] == found["tokens"]
    assert all(len(one["top"]) == 2 and one["top"][0][1] == one["logprob"] for one in found["logprobs"])
    assert found["score"] == pytest.approx(sum(one["logprob"] for one in found["logprobs"]))
    first = found["tokens"][0]
    assert dispatch([*base, "--logit-bias", f"{first}=-inf"]) == 0
    assert capsys.readouterr().out != "elbat\n"
    fails(capsys, [*base, "--logprobs", "1"], "--logprobs needs an output that can hold it")
    fails(capsys, [*base, "--logit-bias", "x"], "--logit-bias 'x': must be ID=B")
    fails(capsys, [*base, "--top-k", "99"], "--top-k 99 must be at most 16")
