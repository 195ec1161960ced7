"""The greedy next token after every row of a causal pass, on every backend: eager PyTorch, both engines, and the JAX reference.

What holds them: each row's token is the one that `decode` gives after the tokens up to it, and keys and values are those that
`encode` gives, so that a draft that was checked needs no other pass to become prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import micro
import micro_bundle
import numpy as np
import numpy.typing as npt
import pytest
import torch
from edited import edited

from dgemma.export import graphs
from dgemma.export.pipeline import export_bundle
from dgemma.export.quiet import quiet
from dgemma.model import checkpoint
from dgemma.model.denoiser import KV, Denoiser
from dgemma.reference import denoiser as jax_denoiser
from dgemma.reference import weights as jax_weights
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine
from dgemma.verify import golden

ENGINES = ("onnx", pytest.param("executorch", marks=pytest.mark.slow))
TOLERANCE = 5e-4  # as in `test_graphs.py`
SLOTS, CHUNK = 64, 64
LENGTHS = (0, 5, 21, 64)
COUNTS = (1, 7, CHUNK)
Feeds = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose layers decide what comes next: at `micro`'s gain of the table it is always the token itself."""
    made = micro.model()
    with torch.no_grad():
        made.embed_tokens.weight.mul_(0.1)
    checkpoint.save(path := tmp_path_factory.mktemp("micro"), made, micro.POLICY)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Denoiser:
    return checkpoint.load(folder).model


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, folder: Path, model: Denoiser) -> Iterator[Any]:
    """Of this checkpoint; for ONNX Runtime, `micro`'s graphs with its table."""
    out = folder / f"{request.param}.dgemma"
    if request.param == "onnx":
        edited(micro_bundle.bundle("onnx"), out, {"embed_tokens.weight": model.embed_tokens.weight})
    else:
        with quiet():
            export_bundle(folder, out, engines=(request.param,), recipe="fp32")
    opened = open_engine(Bundle.open(out), request.param, 1)
    yield opened
    opened.close()


def ids(*values: int) -> npt.NDArray[Any]:
    return np.array(values, np.int64)


def draft(count: int) -> npt.NDArray[Any]:
    """Ids [1, C]; not those of the prefix."""
    return ids(*(11 + 29 * i for i in range(count)))[None] % micro.VOCAB


def feeds_of(caches: list[KV], tokens: npt.NDArray[Any], length: int, rows: list[int] | None = None) -> Feeds:
    """All inputs of `check` by name; all rows unless some are given."""
    chosen = np.arange(tokens.shape[1]) if rows is None else ids(*rows)
    feeds = {"tokens": tokens, "start": ids(length), "rows": chosen}
    for layer, (keys, values) in enumerate(caches):
        feeds |= {f"prefix_key_{layer}": keys.numpy(), f"prefix_value_{layer}": values.numpy()}
    return feeds


def as_decode(feeds: Feeds, count: int) -> Feeds:
    """The same call as one of `encode` or `decode` that counts so many tokens."""
    return {name: array for name, array in feeds.items() if name != "rows"} | {"count": ids(count)}


def compared(engine: Any, model: Denoiser, feeds: Feeds, caches: list[KV], **other: npt.NDArray[Any]) -> tuple[bool, float]:
    """Whether all next tokens are eager's, and the largest error of keys and values; `other` replaces feeds of the engine."""
    arguments = [torch.from_numpy(feeds[name]) for name in ("tokens", "start", "rows")]
    with torch.no_grad():
        tokens, *new = graphs.Check(model)(*arguments, graphs.flatten(caches))
    found = engine.run("check", feeds | other)
    names = [spec.name for spec in graphs.prefix_specs(model.config, "C", "new")]
    errors = [float(np.abs(found[name] - wanted.numpy()).max()) for name, wanted in zip(names, new, strict=True)]
    assert set(found) == {"next_tokens", *names}
    return np.array_equal(found["next_tokens"], tokens.numpy()), max(errors)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", COUNTS)
def test_engines_give_what_eager_gives(engine: Any, model: Denoiser, length: int, count: int) -> None:
    caches = micro.prefix(model, length, SLOTS)
    same, error = compared(engine, model, feeds_of(caches, draft(count), length), caches)
    assert same and error < TOLERANCE


@pytest.mark.parametrize("rows", [[0], [6], [1, 4, 5], [5, 2, 2]])
def test_rows_are_chosen(engine: Any, model: Denoiser, rows: list[int]) -> None:
    """Any rows in any order are those of all, and the pass itself is of all tokens."""
    caches = micro.prefix(model, 21, SLOTS)
    feeds = feeds_of(caches, draft(7), 21)
    every, some = engine.run("check", feeds), engine.run("check", feeds | {"rows": ids(*rows)})
    assert len(set(every["next_tokens"][0].tolist())) > 3, "the case decides nothing"
    np.testing.assert_array_equal(some.pop("next_tokens"), every["next_tokens"][:, rows])
    for name, array in some.items():
        np.testing.assert_array_equal(array, every[name])


@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_encode_and_decode_in_one(engine: Any, model: Denoiser, length: int) -> None:
    """A row's token is what `decode` gives after the tokens up to it; keys and values are `encode`'s, to the bit."""
    tokens = draft(9)
    feeds = feeds_of(micro.prefix(model, length, SLOTS), tokens, length)
    found = engine.run("check", feeds)
    for i in range(9):
        for seen in (tokens[:, : i + 1].copy(), tokens):  # whatever follows
            decoded = engine.run("decode", as_decode(feeds | {"tokens": seen}, i + 1))["next_token"]
            assert decoded.tolist() == [found["next_tokens"][0, i]]
    for name, array in engine.run("encode", as_decode(feeds, 9)).items():
        np.testing.assert_array_equal(array, found[name])


@pytest.mark.parametrize("name", ["onnx", "executorch"])
def test_trained_weights(name: str, tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    """Texts that were denoised, checked by the causal pass from several positions on; and what `decode` writes is confirmed."""
    model, bundle = checkpoint.load(tiny_checkpoint).model, Bundle.open(tiny_bundle)
    opened = open_engine(bundle, name, 1)
    for _, trajectory in golden.read(bundle, "float"):
        text = np.concatenate([trajectory.prompt_ids, trajectory.tokens])
        with torch.no_grad():
            caches = model.encode(torch.from_numpy(text)[None])[1]  # of all of it; what lies beyond a length is not read
        for length in (0, 5, trajectory.prompt_ids.size - 1):
            tokens = text[None, length : length + bundle.manifest.chunk]
            feeds = feeds_of(caches, tokens, length)
            same, error = compared(opened, model, feeds, caches)
            assert same and error < TOLERANCE
        written = tokens[:, :1]
        for i in range(12):
            more = opened.run("decode", as_decode(feeds | {"tokens": written}, i + 1))["next_token"]
            written = np.concatenate([written, more[None]], axis=1)
        confirmed = opened.run("check", feeds_of(caches, written, length))["next_tokens"]
        np.testing.assert_array_equal(confirmed[:, :-1], written[:, 1:])
    opened.close()


def test_engines_notice(engine: Any, model: Denoiser) -> None:
    """The comparison fails for positions one off, keys or values in another order, and a draft with one other token."""
    caches = micro.prefix(model, 21, SLOTS)
    feeds = feeds_of(caches, draft(CHUNK), 21)
    changed = draft(CHUNK)
    changed[0, 3] += 1
    others = [{"start": ids(22)}, {"start": ids(20)}, {"tokens": changed}]
    others += [{name: array[:, ::-1].copy()} for name, array in feeds.items() if name.startswith("prefix")]
    for other in others:
        same, error = compared(engine, model, feeds, caches, **other)
        of_last_layer = any(name.endswith(f"_{model.config.num_layers - 1}") for name in other)  # which the head alone sees
        assert not same and (error < TOLERANCE if of_last_layer else error > TOLERANCE), sorted(other)


def reference_check(model: Denoiser, folder: Path, caches: list[KV], tokens: npt.NDArray[Any], length: int) -> Any:
    """What the JAX reference gives: ids [C], and keys and values by kind of layer."""
    config, prefix = model.config, {}
    for kind, full in (("sliding", False), ("full", True)):
        layers = [i for i in range(config.num_layers) if config.is_full(i) == full]
        prefix[kind] = tuple(jnp.stack([jnp.asarray(caches[i][part][0].numpy()) for i in layers]) for part in (0, 1))
    weights = jax_weights.load(folder, config)
    return jax_denoiser.check(weights, config, jnp.asarray(tokens[0], jnp.int32), prefix, jnp.int32(length))


@pytest.mark.parametrize(("length", "count"), [(0, 7), (21, 1), (21, CHUNK)])
def test_the_reference_gives_what_eager_gives(model: Denoiser, folder: Path, length: int, count: int) -> None:
    caches, tokens = micro.prefix(model, length, SLOTS), draft(count)
    arguments = (torch.from_numpy(tokens), torch.tensor([length]), torch.arange(count), graphs.flatten(caches))
    with torch.no_grad():
        wanted, *new = graphs.Check(model)(*arguments)
    found, kept = reference_check(model, folder, caches, tokens, length)
    np.testing.assert_array_equal(np.asarray(found), wanted[0].numpy())
    np.testing.assert_allclose(np.asarray(kept["full"][0][0]), new[-2][0].numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(np.asarray(kept["sliding"][1][0]), new[1][0].numpy(), atol=TOLERANCE)
    shifted, _ = reference_check(model, folder, caches, tokens, length + 1)
    assert count == 1 or not np.array_equal(np.asarray(shifted), wanted[0].numpy())
