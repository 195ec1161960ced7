"""What a request goes on from: keys and values that are, bit for bit, those that it gets alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from dgemma.core.cost import prefix_bytes
from dgemma.core.shipped import bundle_path
from dgemma.runtime.prefix import Prefix
from dgemma.runtime.session import Session
from dgemma.serve.conversations import Pool
from dgemma.serve.workers import Workers

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


def test_caches_are_taken_over_where_nothing_is_lost_or_room_is_needed(base: Session) -> None:
    length = base.manifest.chunk + 9
    pool = Pool(2 * prefix_bytes(base.manifest.model, length + 64))
    first, second, third = (base.prompt_ids(name + TOLD * 4)[:length] for name in ("One. ", "Two. ", "Three. "))
    _, short = answer(pool, base, first[:20], "diffusion")  # nobody can go on from it
    assert answer(pool, base, first, "diffusion") == (0, short)
    _, other = answer(pool, base, second, "diffusion")
    assert other is not short and pool.counts == (0, 2)
    assert answer(pool, base, third, "diffusion") == (0, short) and pool.counts == (0, 2)  # the one used longest ago
    assert answer(pool, base, second, "diffusion") == (base.manifest.chunk, other)
    pool.forget("tiny")


def test_threads_are_kept_and_end_when_told() -> None:
    workers, ran = Workers("test-worker"), list[str]()
    both = threading.Barrier(3)

    def work() -> None:
        both.wait(10)
        ran.append(str(threading.get_ident()))
        both.wait(10)

    for _ in range(3):
        workers.run(work)
        workers.run(work)
        both.wait(10)
        both.wait(10)
        while len(workers._idle) < 2:
            time.sleep(0.001)
    assert len(ran) == 6 and len(set(ran)) == 2
    workers.close()
    deadline = time.monotonic() + 10
    while any(thread.name == "test-worker" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "threads go on"
        time.sleep(0.001)
