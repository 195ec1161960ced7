"""The prefix: which tokens it holds, and their keys and values in caches that the host owns.

Tokens are appended at once, but encoded only when something needs them. Keys and values of a causal pass do not depend on
what follows, so a prefix is shortened by forgetting its last tokens. K kv heads, d head dim, S slots, C chunk.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from dgemma.core.manifest import Manifest
from dgemma.core.shapes import SLOT_STEP
from dgemma.runtime import finite
from dgemma.runtime.engines.base import Array, Engine, Feeds

LOCAL = "L"  # the dimension of inputs that hold the last slots alone


def input_dim(engine: Engine, graph: str, name: str, axis: int) -> tuple[int, int]:
    """Range of one input's size, from the manifest."""
    shape = next(t.shape for t in engine.bundle.graph(engine.name, graph).inputs if t.name == name)
    size = shape[axis]
    return engine.bundle.manifest.dims.get(size, (1, 1)) if isinstance(size, str) else (size, size)


def decode_feeds(engine: Engine, prefix: Prefix, token: int, start: int) -> Feeds:
    """Inputs of `decode` for one token at slot `start` of an encoded prefix."""
    tokens = np.zeros((1, max(1, input_dim(engine, "decode", "tokens", 1)[0])), np.int64)
    tokens[0, 0] = token
    scalars = {"start": np.array([start], np.int64), "count": np.ones(1, np.int64)}
    return {**prefix.feeds("decode"), "tokens": tokens, **scalars}


def zeros(shape: Sequence[int]) -> Array:
    """float32, of pages whose memory is taken one by one as they are written: for numpy's own Linux is asked for huge ones,
    and 52 caches of 16 MB that are filled to 2 took twice as much."""
    if sys.platform == "win32":
        return np.zeros(shape, np.float32)
    pages = mmap.mmap(-1, 4 * math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):  # of kernels without huge pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.float32).reshape(shape)


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids the two begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


class Prefix:
    """Token ids and per-layer caches [1, context, K, d]."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        manifest: Manifest = engine.bundle.manifest
        self.context, self._chunk = manifest.context, manifest.chunk
        self.ids: list[int] = []
        self.encoded = 0
        self._whole = 0  # encoded in chunks that begin at multiples of C, all but the last of them whole ones
        model = manifest.model
        self._window = model.sliding_window
        self._caches: list[tuple[str, str, Array]] = []  # (prefix input, output of new rows, cache)
        for layer in range(model.num_layers):
            shape = (1, manifest.context, model.layer_kv_heads(layer), model.layer_head_dim(layer))
            for kind in ("key", "value"):
                self._caches.append((f"prefix_{kind}_{layer}", f"new_{kind}_{layer}", zeros(shape)))
        self._last = self._caches[-1][1]  # NaN that arose in any layer before shows there
        self._rows = [(name, cache[0]) for _, name, cache in self._caches]
        self._slots: dict[str, tuple[tuple[int, int], set[str]]] = {}  # graph → what `_dims` finds of it
        self._views: dict[str, tuple[tuple[int, int], Feeds]] = {}  # graph → slots handed out, the first local one, and where

    @property
    def whole_chunks(self) -> int:
        """How many of the first tokens were encoded in whole chunks, as those of a long prompt are.

        Keys and values depend, by rounding, on which rows are encoded together, and rounding can turn a near-tie.
        """
        return min(self._whole, self.encoded) // self._chunk * self._chunk

    def reusable(self, ids: Sequence[int]) -> int:
        """How many of the first tokens `ids` share, with the keys and values that they would get in an empty prefix; not all of
        `ids`."""
        return min(self.whole_chunks, min(shared_length(self.ids, ids), len(ids) - 1) // self._chunk * self._chunk)

    def extend(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)

    def copy(self, other: Prefix, length: int) -> None:
        """Hold what the other one, of the same engine, holds of its first `length` tokens."""
        self.ids, self.encoded, self._whole = other.ids[:length], min(other.encoded, length), min(other.whole_chunks, length)
        for (_, _, to), (_, _, cache) in zip(self._caches, other._caches, strict=True):
            to[0, : self.encoded] = cache[0, : self.encoded]

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on."""
        del self.ids[length:]
        self.encoded = min(self.encoded, length)

    def feeds(self, graph: str, behind: int = 0) -> Feeds:
        """The filled slots of every cache and `behind` more, rounded up, or as many as the graph is fixed to.

        Sliding layers get those that they see and some before, where the graph has a dimension of its own for them. The same
        dictionary as long as its slots stay the same.
        """
        if graph not in self._slots:
            self._slots[graph] = self._dims(graph)
        (low, high), local = self._slots[graph]
        slots = min(max(low, -(-max(1, self.encoded + behind) // SLOT_STEP) * SLOT_STEP), high, self.context)
        first = max(0, self.encoded - (self._window - 1)) // SLOT_STEP * SLOT_STEP if local else 0
        if (slots, first) != self._views.get(graph, ((0, 0), {}))[0]:
            found = {name: cache[:, first if name in local else 0 : slots] for name, _, cache in self._caches}
            self._views[graph] = (slots, first), found
        return self._views[graph][1]

    def _dims(self, graph: str) -> tuple[tuple[int, int], set[str]]:
        """Fewest and most slots that a graph takes, and its inputs that take the last of them alone."""
        names = [name for name, _, _ in self._caches]
        shapes = {t.name: t.shape[1] for t in self._engine.bundle.graph(self._engine.name, graph).inputs if t.name in names}
        local = {name for name in names if shapes[name] == LOCAL}
        whole = next((name for name in names if name not in local), names[0])
        return input_dim(self._engine, graph, whole, 1), local

    def rows(self, start: int) -> list[tuple[Array, Array]]:
        """Per layer the keys and values [·, K, d] of what is encoded from position `start` on."""
        views = [cache[0, start : self.encoded] for _, _, cache in self._caches]
        return list(zip(views[::2], views[1::2], strict=True))

    def store(self, outputs: Feeds, count: int) -> None:
        """Append `count` rows of new keys and values [1, C, K, d]."""
        end, self._whole = self.encoded + count, min(self._whole, self.encoded)
        if count == 1:  # the inner loop of autoregressive decoding, where indexing costs more than the copy
            for name, rows in self._rows:
                rows[self.encoded] = outputs[name]
        else:
            for _, name, cache in self._caches:
                cache[0, self.encoded : end] = outputs[name][0, :count]
        self.encoded = end

    def place(self, outputs: Feeds, positions: Array) -> None:
        """Keep keys and values [1, A, K, d] of canvas positions [A] behind the prefix, in slots that do not count as filled."""
        slots = self.encoded + positions
        for _, name, cache in self._caches:
            cache[0, slots] = outputs[name][0]

    def encode(self, cancelled: Callable[[], bool], *, keep: int = 0, check: int = 0) -> list[int]:
        """Encode pending tokens, but for the last `keep`, in chunks; stops between chunks when cancelled.

        Returns what greedy decoding says after each of the last `check` of them.
        """
        least, following = input_dim(self._engine, "encode", "tokens", 1)[0], list[int]()
        end = len(self.ids) - keep
        while (count := min(end - self.encoded, self._chunk)) > 0 and not cancelled():
            tokens = np.zeros((1, max(count, least)), np.int64)
            tokens[0, :count] = self.ids[self.encoded : self.encoded + count]
            feeds = {"tokens": tokens, "start": np.array([self.encoded], np.int64)}
            rows = np.arange(max(0, end - check - self.encoded), count)
            if rows.size:
                out = self._engine.run("check", {**feeds, "rows": rows, **self.feeds("check")})
                following += out["next_tokens"][0].tolist()
            else:
                out = self._engine.run("encode", {**feeds, "count": np.array([count], np.int64), **self.feeds("encode")})
            where = f"the encoding of positions {self.encoded} to {self.encoded + count - 1}"
            finite.check(self._engine, out[self._last][0, :count], where)
            whole = self.encoded == self.whole_chunks and not rows.size
            self.store(out, count)
            self._whole = self.encoded if whole else self._whole
        return following
