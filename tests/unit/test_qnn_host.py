"""What a processor computes around an NPU's graphs, beside the model that it stands in for: masks, embeddings, the sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
import torch
from static_feeds import stack_feeds

from dgemma.core.noise import step_words
from dgemma.core.sampler import SamplerConfig
from dgemma.export import float16, spans
from dgemma.export.onnx.weights import FILE, WeightFile
from dgemma.export.qnn import parts
from dgemma.export.static import Sizes
from dgemma.model import sampler as torch_sampler
from dgemma.model.denoiser import Denoiser, denoise_masks, encode_masks
from dgemma.quantize.ranges import ranges
from dgemma.quantize.recipes import find
from dgemma.runtime.engines.accelerator_host import HIDDEN, Pass
from dgemma.runtime.engines.host_sampler import Tiles, next_tokens, sample
from dgemma.runtime.engines.sessions import open_session

ROOM, MORE = 32, 3  # slots of a graph, and rows that it has too many


def row(n: int, length: int, slots: int, local: int, *, canvas: bool, settled: list[bool]) -> Pass:
    return Pass(
        n=n, rows=n + MORE, length=length, slots=slots, local=local, canvas=canvas, positions=np.arange(n),
        settled=np.array(settled),
    )  # fmt: skip


@pytest.mark.parametrize("length", [0, 3, 11, 20])
@pytest.mark.parametrize("canvas", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_masks_are_those_of_the_model(length: int, canvas: bool, full: bool) -> None:
    n, slots, local = 4, 24, 16
    settled = [True, False, True, False] if canvas else [False]
    made = row(n, length, slots, local, canvas=canvas, settled=settled)
    bias = made.bias(ROOM, None if full else micro.WINDOW)
    if canvas:
        masks = denoise_masks(micro.CONFIG, n, slots, length, torch.tensor(settled), local)
    else:
        masks = encode_masks(micro.CONFIG, n, slots, length, local)
    wanted = masks[full].expand(n, -1).numpy()
    filled = slots if full else local
    seen = np.concatenate([bias[:n, :filled], bias[:n, ROOM : ROOM + n]], 1) == 0
    assert np.array_equal(seen, wanted)
    assert set(np.unique(bias)) <= {np.float32(0), HIDDEN}
    assert (bias[:n, filled:ROOM] == HIDDEN).all(), "slots that were filled up are seen"
    if canvas:
        assert (bias[:n, ROOM + n :] == HIDDEN).all(), "rows that were filled up are seen"
    assert ((bias == 0).any(1)).all(), "a row sees nothing, which no softmax can weigh"


def drawn(tile: int, policy: SamplerConfig, *, scale: float = 8.0, cap: float = 30.0) -> tuple[Any, Any, Any]:
    """A step by the host, the contract's in torch, and its soft embedding, of 300 ids and 16 rows."""
    model = micro.model()
    generator = np.random.default_rng(0)
    products = (scale * generator.standard_normal((micro.N, micro.VOCAB))).astype(np.float32)
    table = model.embed_tokens.weight.detach().numpy()
    spans = [(i, min(i + tile, micro.VOCAB)) for i in range(0, micro.VOCAB, tile)]
    words = step_words(5, 0, 1, micro.N).astype(np.int64)
    scale_of = np.float32(model.embed_scale)
    mine = sample(
        Tiles(spans=spans, cap=cap),
        lambda t: products[:, slice(*spans[t])],
        lambda w, first: w @ table[first : first + w.shape[1]] * scale_of,
        lambda ids: table[ids] * scale_of,
        policy,
        words,
        0.7,
    )
    logits = torch.tanh(torch.from_numpy(products) / 30.0) * 30.0
    tempered = (logits / 0.7)[None]
    wanted = torch_sampler.step(tempered, torch.from_numpy(words)[None], policy.entropy_bound)
    return mine, wanted, (model.soft_embed(tempered, policy.top_k), *torch_sampler.candidates(tempered, 16))


@pytest.mark.parametrize("tile", [512, 256])
@pytest.mark.parametrize("soft", ["exact", "topk:4"])
@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_the_sampler_is_the_contracts(tile: int, soft: str, scale: float) -> None:
    policy = SamplerConfig(steps=4, entropy_bound=9.0, soft=soft)
    mine, wanted, (embedding, likeliest, log_probs) = drawn(tile, policy, scale=scale)
    assert np.array_equal(mine.canvas, wanted.canvas[0].numpy())
    assert np.array_equal(mine.argmax, wanted.argmax[0].numpy())
    assert np.array_equal(mine.accepted, wanted.accepted[0].numpy())
    assert mine.accepted.any() and not mine.accepted.all()
    np.testing.assert_allclose(mine.entropy, wanted.entropy[0].numpy(), atol=2e-6)
    assert np.array_equal(mine.drawn, wanted.drawn[0].numpy()) and not np.array_equal(mine.drawn, mine.canvas)
    assert np.array_equal(mine.likeliest, likeliest[0].numpy()) and policy.candidates(micro.VOCAB) == 16
    np.testing.assert_allclose(mine.log_probs, log_probs[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(mine.soft, embedding[0].detach().numpy(), atol=2e-5 * float(embedding.abs().max()))


def test_a_wrong_cap_is_seen() -> None:
    mine, wanted, _ = drawn(256, SamplerConfig(steps=4, entropy_bound=9.0), cap=20.0)
    assert not np.allclose(mine.entropy, wanted.entropy[0].numpy(), atol=2e-6)


def test_the_first_of_equal_ids_is_the_next_token() -> None:
    products = np.zeros((1, 300), np.float32)
    products[0, [17, 290]] = 3.0
    spans = [(0, 256), (256, 300)]
    assert next_tokens(Tiles(spans=spans, cap=30.0), lambda t: products[:, slice(*spans[t])]).tolist() == [17]


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return micro.model().eval()


def written(model: Denoiser, folder: Path, n: int, slots: int) -> Path:
    with (folder / FILE).open("wb") as file:
        found = ranges(model, micro.POLICY, [micro.prompt(19)], {})
        source = parts.Source(model=model, quantized={}, ranges=found, weights=WeightFile(file))
        net = parts.layers(source, "layers", (0, model.config.num_layers), n, slots, slots)
    path = folder / "layers.onnx"
    path.write_bytes(net.model().SerializeToString())
    return path


def test_a_static_graph_computes_what_the_model_does(model: Denoiser, tmp_path: Path) -> None:
    n, slots, length = micro.N, 32, 19
    feeds, wanted = stack_feeds(model, n, slots, length)
    session = open_session(written(model, tmp_path, n, slots))
    got = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    names = ["hidden", *(f"new_{kind}_{i}" for i in range(2) for kind in ("key", "value"))]
    for name, want in zip(names, wanted, strict=True):
        np.testing.assert_allclose(got[name], want, atol=2e-4, err_msg=name)
    wrong = session.run(["hidden"], {**feeds, "scalar_0": 1.01 * feeds["scalar_0"]})[0]
    assert np.abs(wrong - wanted[0]).max() > 1e-3, "a wrong layer scalar is not seen"


def test_norms_hold_their_squares_in_half_precision() -> None:
    """What overflowed on tiny, whose down projections reach 9,700: the sum of squares of a row."""
    x = np.array([9_700.0, -3.0, 0.5, 120.0], np.float16)
    wanted = x.astype(np.float64) / np.sqrt((x.astype(np.float64) ** 2).mean() + 1e-6)
    with np.errstate(over="ignore"):
        assert np.isinf((x * x).mean(dtype=np.float16))
    shrink = np.float16(2.0 ** np.floor(np.log2(float16.NORM_TARGET / 9_700)))
    small = x * shrink
    root = np.sqrt((small * small).mean(dtype=np.float16) + np.float16(max(1e-6 * float(shrink) ** 2, float16.SMALLEST)))
    np.testing.assert_allclose((small / root).astype(np.float64), wanted, rtol=4e-3, atol=1e-3)
    assert np.float16(float16.SMALLEST) > 0 and np.float16(float16.SMALLEST / 2) == 0


def test_layers_are_split_where_a_context_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    config, recipe = micro.CONFIG, find("fp32")
    assert spans.split(config, recipe, "qnn") == [(0, 2)]
    monkeypatch.setattr(spans, "MOST_BYTES", 40_000)
    assert spans.split(config, recipe, "qnn") == [(0, 1), (1, 2)]


def test_sliding_layers_have_room_for_what_the_runtime_hands_out() -> None:
    from dgemma.export.graphs import Shapes

    sizes = Sizes.of(Shapes(canvas=64, chunk=64, context=4096), replace(micro.CONFIG, sliding_window=256))
    assert sizes.slots == (128, 256, 512, 1024, 2048, 4096) and sizes.rows == (1, 16, 64)
    for encoded in range(1, 2000):
        for behind in (0, 64):
            slots = -(-(encoded + behind) // 64) * 64
            first = max(0, encoded - 255) // 64 * 64
            assert slots - first <= sizes.local
