"""What a request goes on from: keys and values that are, bit for bit, those that it gets alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from dgemma.core.shipped import bundle_path
from dgemma.runtime.prefix import Prefix
from dgemma.runtime.session import Session
from dgemma.serve.conversations import Pool

TOLD = "The quick brown fox jumps over the lazy dog while it sorts h g f e d c b a, "


@pytest.fixture(scope="module")
def base() -> Iterator[Session]:
    with Session.load(bundle_path("tiny"), threads=1) as session:
        yield session


def answer(pool: Pool, base: Session, ids: tuple[int, ...], decoder: str) -> tuple[int, Prefix]:
    """How many tokens were kept for an answer, and the prefix behind it."""
    with pool.lease("tiny", base, ids, len(ids) + 64, lambda: False) as lease:
        assert lease is not None
        more = ids[lease.kept :]
        lease.session.generate(more, raw=True, continue_=True, max_new_tokens=4, decoder=decoder)
        return lease.kept, lease.session._generator.prefix


@pytest.mark.parametrize("decoder", ["diffusion", "autoregressive"])
def test_keys_and_values_are_those_of_the_request_alone(base: Session, decoder: str) -> None:
    chunk, text = base.manifest.chunk, base.prompt_ids(TOLD * 4)
    pool, kept = Pool(1 << 30), list[int]()
    # Longer, shorter, alike, on from an answer, another end, and lengths at the edge of a chunk.
    lengths = [chunk + 9, 2 * chunk + 1, chunk + 9, 30, 2 * chunk, 2 * chunk, 3 * chunk, 3 * chunk, chunk - 1, chunk, chunk + 1]
    for number, length in enumerate(lengths):
        ids = (*text[: length - 5], *text[number : number + 5])
        found, prefix = answer(pool, base, ids, decoder)
        _, alone = answer(Pool(1 << 30), base, ids, decoder)
        kept.append(found)
        for ours, theirs in zip(prefix.rows(0), alone.rows(0), strict=True):
            for mine, its in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(mine[: len(ids)], its[: len(ids)], strict=True)
    assert kept[0] == 0 and set(kept) == {0, chunk, 2 * chunk}  # and some of it is kept
    pool.forget("tiny")


def test_what_was_decoded_token_by_token_is_not_kept(base: Session) -> None:
    chunk, pool = base.manifest.chunk, Pool(1 << 30)
    ids = base.prompt_ids(TOLD * 4)[: chunk - 2]
    _, prefix = answer(pool, base, ids, "autoregressive")
    said = tuple(prefix.ids)
    assert prefix.encoded >= chunk and prefix.whole_chunks == 0
    assert answer(pool, base, (*said, *ids[:40]), "diffusion")[0] == 0
    pool.forget("tiny")
