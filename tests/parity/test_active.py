"""Steps of the active positions alone, on every backend: eager PyTorch, both engines, and the JAX reference.

What holds them: with all positions active it is `denoise`; settled ones are seen with the keys and values that the caller
keeps, as a naive twin sees them that takes them for more prefix; and whole generations commit early alike everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import micro
import micro_bundle
import numpy as np
import numpy.typing as npt
import pytest
import torch

from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.errors import EngineError
from dgemma.core.generate_options import GenerateOptions
from dgemma.export import graphs
from dgemma.model import checkpoint
from dgemma.model.denoiser import KV, Denoiser
from dgemma.model.generate import Generation, generate
from dgemma.reference import denoiser as jax_denoiser
from dgemma.reference import weights as jax_weights
from dgemma.reference.texts import Reference
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine
from dgemma.runtime.session import Session
from dgemma.verify.metrics import candidates_error

ENGINES = ("onnx", pytest.param("executorch", marks=pytest.mark.slow))
TOLERANCE = 5e-4  # as in `test_graphs.py`
EARLY_COMMIT = 2.5  # nats; peaked random weights commit some positions in each step and not all
SLOTS, N = 128, micro.N
ACTIVE = {"some": [0, 3, 4, 9, 15], "one": [7], "all": list(range(N))}


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return checkpoint.load(micro_bundle.checkpoint()).model


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    opened = open_engine(Bundle.open(micro_bundle.bundle(request.param)), request.param, 1)
    yield opened
    opened.close()


def case(model: Denoiser, length: int, active: list[int]) -> tuple[list[KV], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prefix with keys and values of a whole pass behind it, ids and soft embeddings of all positions [N], settled [N]."""
    caches = micro.prefix(model, length, SLOTS)
    canvas, _ = micro.noise(3)
    soft = torch.randn(1, N, model.config.hidden_size, generator=torch.Generator().manual_seed(5))
    none = torch.zeros(N, dtype=torch.bool)
    with torch.no_grad():
        _, new = model.denoise_active(canvas, torch.arange(N), soft, caches, length, none)
    for pair, rows in zip(caches, new, strict=True):
        for cache, fresh in zip(pair, rows, strict=True):
            cache[:, length : length + N] = fresh
    settled = ~none
    settled[active] = False
    return caches, canvas.flip(1), soft, settled


def naive(
    model: Denoiser, caches: list[KV], canvas: torch.Tensor, soft: torch.Tensor, settled: torch.Tensor, length: int
) -> torch.Tensor:
    """Logits [1, A, V]: the visible slots are picked out and everything left is seen, with masks made one by one."""
    active = torch.nonzero(~settled).flatten()
    kept = [length + i for i in range(N) if settled[i]]
    prefix = [(k[:, [*range(length), *kept]], v[:, [*range(length), *kept]]) for k, v in caches]
    recent = [s >= length - (model.config.sliding_window - 1) for s in range(length)]
    rest = [True] * (len(kept) + len(active))
    masks = (torch.tensor([[*recent, *rest]]), torch.tensor([[True] * length + rest]))
    x = model.self_conditioning(model.embed(canvas[:, active]), soft[:, active])
    return model.head(model.stack(x, active + length, masks, prefix, "denoise")[0])


@pytest.mark.parametrize("length", [1, 5, 21, 100])
@pytest.mark.parametrize("name", ACTIVE)
def test_settled_positions_are_seen_with_the_keys_that_are_kept(model: Denoiser, length: int, name: str) -> None:
    caches, canvas, soft, settled = case(model, length, ACTIVE[name])
    rows = torch.tensor(ACTIVE[name])
    with torch.no_grad():
        logits, _ = model.denoise_active(canvas[:, rows], rows, soft[:, rows], caches, length, settled)
        torch.testing.assert_close(logits, naive(model, caches, canvas, soft, settled, length), atol=1e-4, rtol=0)
        whole = model.denoise(canvas, soft, caches, length)
        error = float((logits - whole[:, rows]).abs().max())
        assert error < 1e-5 if name == "all" else error > 0.1  # the others have changed since, and nobody knows


def feeds_of(
    caches: list[KV], canvas: torch.Tensor, soft: torch.Tensor, settled: torch.Tensor, rows: list[int], length: int
) -> tuple[list[torch.Tensor], dict[str, npt.NDArray[Any]]]:
    """Arguments of `graphs.DenoiseActive` but for the prefix, and all of them by name."""
    words = micro.noise(3)[1][0]
    tensors = {
        "canvas": canvas[:, rows],
        "positions": torch.tensor([rows]),
        "soft": soft[:, rows],
        "words": words[:, rows],
        "temperature": torch.tensor([0.7]),
        "prefix_length": torch.tensor([length]),
        "settled": settled[None],
    }
    feeds = {name: np.ascontiguousarray(t.numpy()) for name, t in tensors.items()}
    for layer, (keys, values) in enumerate(caches):
        feeds |= {f"prefix_key_{layer}": keys.numpy(), f"prefix_value_{layer}": values.numpy()}
    return list(tensors.values()), feeds


def error_of(engine: Any, model: Denoiser, length: int, rows: list[int], **other: npt.NDArray[Any]) -> float:
    """Largest error of floats against eager, infinite when a decision differs; `other` replaces feeds of the engine."""
    caches, canvas, soft, settled = case(model, length, rows)
    arguments, feeds = feeds_of(caches, canvas, soft, settled, rows, length)
    with torch.no_grad():
        expected = graphs.DenoiseActive(model, micro.POLICY)(*arguments, graphs.flatten(caches))
    outputs = engine.run("denoise_active", feeds | other)
    assert len(outputs) == len(expected)
    wanted_by_name = dict(zip(outputs, expected, strict=True))
    sides = [side[name] for side in (wanted_by_name, outputs) for name in ("likeliest", "log_probs")]
    errors = [float(candidates_error(*map(np.asarray, sides)).max())]
    for name, wanted in wanted_by_name.items():
        found = outputs[name]
        if name == "likeliest":
            continue
        if wanted.dtype == torch.float32:
            errors.append(float(np.abs(found - wanted.numpy()).max()))
        elif not np.array_equal(found, wanted.numpy()):
            return float("inf")
    return max(errors)


@pytest.mark.parametrize("length", [1, 21, 100])
def test_engines_give_what_eager_gives(engine: Any, model: Denoiser, length: int) -> None:
    for rows in ACTIVE.values():
        assert error_of(engine, model, length, rows) < TOLERANCE


def test_engines_notice(engine: Any, model: Denoiser) -> None:
    """The comparison fails when nothing is committed, and when positions are counted from zero."""
    rows = ACTIVE["some"]
    assert error_of(engine, model, 21, rows, settled=np.zeros((1, N), np.bool_)) > TOLERANCE
    assert error_of(engine, model, 21, rows, positions=np.arange(len(rows))[None]) > TOLERANCE


@pytest.mark.usefixtures("unoptimized_jax")
def test_the_reference_gives_what_eager_gives(model: Denoiser) -> None:
    config = model.config
    weights = jax_weights.load(micro_bundle.checkpoint(), config)
    for rows in ACTIVE.values():
        caches, canvas, soft, settled = case(model, 21, rows)
        with torch.no_grad():
            logits, new = model.denoise_active(canvas[:, rows], torch.tensor(rows), soft[:, rows], caches, 21, settled)
        prefix = {}
        for kind, full in (("sliding", False), ("full", True)):
            layers = [i for i in range(config.num_layers) if config.is_full(i) == full]
            prefix[kind] = tuple(jnp.stack([jnp.asarray(caches[i][part][0].numpy()) for i in layers]) for part in (0, 1))
        found, kept = jax_denoiser.denoise_active(
            weights,
            config,
            jnp.asarray(canvas[0, rows].numpy(), jnp.int32),
            jnp.asarray(rows, jnp.int32),
            jnp.asarray(soft[0, rows].numpy()),
            prefix,
            jnp.int32(21),
            jnp.asarray(settled.numpy()),
        )
        np.testing.assert_allclose(np.asarray(found), logits[0].numpy(), atol=TOLERANCE)
        np.testing.assert_allclose(np.asarray(kept["full"][0][0]), new[-1][0][0].numpy(), atol=TOLERANCE)


POLICIES = {
    "early_commit": ComputePolicy(early_commit=EARLY_COMMIT),
    "recheck": ComputePolicy(early_commit=EARLY_COMMIT, recheck=True),
    "narrow": ComputePolicy(early_commit=EARLY_COMMIT, start_width=2),
    # Commits hardly anything. No smaller bound: an entropy of zero is 1e-7 by rounding, of either sign.
    "grows at once": ComputePolicy(early_commit=1e-5, start_width=N // 2),
    "draft": ComputePolicy(early_commit=EARLY_COMMIT, start_width=4, speculate=True),
}
SAME = ("canvas_index", "step", "argmax", "accepted", "canvas_in", "canvas_out", "tokens")
works = pytest.mark.parametrize("name", POLICIES)
both_stops = pytest.mark.parametrize("adaptive", [True, False])


def eager(model: Denoiser, seed: int, adaptive: bool, compute: ComputePolicy) -> tuple[list[int], Generation]:
    ids = micro.prompt(5 + 9 * seed)
    return ids, generate(model, micro.POLICY, ids, seed=seed, max_new_tokens=40, adaptive=adaptive, compute=compute)


@pytest.mark.parametrize(
    "name",  # a draft compiles programs of its own, for a minute and more; others repeat what the first two do
    [pytest.param(name, marks=() if name in ("recheck", "narrow") else pytest.mark.slow) for name in POLICIES],
)
@both_stops
@pytest.mark.usefixtures("unoptimized_jax")
def test_the_reference_leaves_out_what_eager_does(model: Denoiser, adaptive: bool, name: str) -> None:
    """A program of one shape, in which what does not run is computed and not seen, makes the same trajectories."""
    weights = jax_weights.load(micro_bundle.checkpoint(), model.config)
    reference = Reference(weights, model.config, micro.POLICY, compute=POLICIES[name])
    for seed in range(3):
        ids, wanted = eager(model, seed, adaptive, POLICIES[name])
        found = reference.generate(ids, seed=seed, max_new_tokens=40, adaptive=adaptive)
        assert (found.canvases, found.stop_reason) == (wanted.canvases, wanted.stop_reason)
        for field in SAME:
            np.testing.assert_array_equal(getattr(found.trajectory, field), getattr(wanted.trajectory, field), err_msg=field)
        np.testing.assert_allclose(found.trajectory.entropy, wanted.trajectory.entropy, atol=TOLERANCE)


@pytest.mark.parametrize("engine_name", ENGINES)
@works
@both_stops
def test_sessions_leave_out_what_eager_does(engine_name: str, adaptive: bool, name: str, model: Denoiser) -> None:
    compute = POLICIES[name]
    with Session.load(micro_bundle.bundle(engine_name), engine=engine_name, threads=1) as session:
        for seed in range(3):
            ids, wanted = eager(model, seed, adaptive, compute)
            options = GenerateOptions(seed=seed, max_new_tokens=40, adaptive=adaptive, trace=True, compute=compute)
            plain, result = (session.generate(ids, o) for o in (replace(options, compute=None), options))
            assert result.trajectory is not None and plain.trajectory is not None
            for field in SAME:
                np.testing.assert_array_equal(
                    getattr(result.trajectory, field), getattr(wanted.trajectory, field), err_msg=field
                )
            assert (result.position_forwards, result.canvases) == (wanted.position_forwards, wanted.canvases)
            assert session.prefix_ids[: len(ids)] == tuple(ids) and len(session.prefix_ids) - len(ids) - len(result.tokens) <= 1
            assert not np.array_equal(result.trajectory.argmax, plain.trajectory.argmax)  # so the option is at work


@pytest.mark.parametrize("engine_name", ENGINES)
@pytest.mark.parametrize("early_commit", [0.01, EARLY_COMMIT, 100.0])
def test_drafts_end_in_the_text_of_greedy_decoding(engine_name: str, early_commit: float) -> None:
    """Whatever the drafts are; and where they agree, in fewer calls."""
    with Session.load(micro_bundle.bundle(engine_name), engine=engine_name, threads=1) as session:
        for seed in range(4):
            ids = micro.prompt(7 + 8 * seed)
            greedy = session.decode_greedy(ids, max_new_tokens=40)
            options = ComputePolicy(early_commit=early_commit, start_width=4, speculate=True)
            drafted = session.generate(ids, GenerateOptions(seed=seed, max_new_tokens=40, compute=options))
            assert (drafted.tokens, drafted.stop_reason) == (greedy.tokens, greedy.stop_reason)
            following = session.generate(micro.prompt(3), max_new_tokens=20, continue_=True, start_width=4, speculate=True)
            session.reset()
            whole = [*ids, *drafted.tokens, *micro.prompt(3)]
            if drafted.stop_reason == "length":
                assert following.tokens == session.decode_greedy(whole, max_new_tokens=20).tokens


@pytest.mark.parametrize("how", ["cancel", "failure"])
def test_a_draft_that_was_not_checked_leaves_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session.load(micro_bundle.bundle("onnx"), engine="onnx", threads=1) as session:
        ids, run, checks = micro.prompt(7), session._engine.run, 0

        def stop(graph: str, feeds: Any) -> Any:
            nonlocal checks
            checks += graph == "check"
            if graph == "check" and checks == 2:  # the first is of the prompt
                if how == "failure":
                    raise EngineError("no")
                session.cancel()
            return run(graph, feeds)

        session.generate(ids, max_new_tokens=3, start_width=4, speculate=True)
        before = session.prefix_ids
        monkeypatch.setattr(session._engine, "run", stop)
        if how == "failure":
            with pytest.raises(EngineError):
                session.generate(ids, max_new_tokens=40, start_width=4, speculate=True, continue_=True)
            assert session.prefix_ids == (*before, *ids)
        else:
            cut = session.generate(ids, max_new_tokens=40, start_width=4, speculate=True, continue_=True)
            assert cut.stop_reason == "cancelled" and session.prefix_ids == (*before, *ids, *cut.tokens)


@pytest.mark.parametrize("engine_name", ENGINES)
def test_no_settling_is_the_plain_loop(engine_name: str) -> None:
    """A bound that no entropy reaches gives the trajectories of `denoise`."""
    with Session.load(micro_bundle.bundle(engine_name), engine=engine_name, threads=1) as session:
        ids = micro.prompt(30)
        plain, active = (session.generate(ids, max_new_tokens=40, early_commit=nats, trace=True) for nats in (None, 1e-30))
        assert plain.trajectory is not None and active.trajectory is not None
        for name in ("argmax", "accepted", "canvas_out", "tokens"):
            np.testing.assert_array_equal(getattr(plain.trajectory, name), getattr(active.trajectory, name), err_msg=name)
        assert plain.position_forwards == active.position_forwards


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_recheck_runs_every_position_once_more(engine_name: str) -> None:
    """The last step of a canvas that did not use up its steps is one of all positions, up to a stop token."""
    policy = micro.POLICY
    with Session.load(micro_bundle.bundle(engine_name), engine=engine_name, threads=1) as session:
        for seed in range(3):
            plain, rechecked = (
                session.generate(micro.prompt(5), seed=seed, max_new_tokens=N, early_commit=100.0, recheck=recheck, trace=True)
                for recheck in (False, True)
            )
            assert plain.trajectory is not None and rechecked.trajectory is not None
            kept = len(session.visible(plain.trajectory.argmax[0], stop=True))
            assert (plain.steps, plain.position_forwards) == (1, N)  # everything is committed at once
            assert (rechecked.steps, rechecked.position_forwards) == (2, N + kept) and policy.steps > 2
            np.testing.assert_array_equal(rechecked.trajectory.canvas_in[1], plain.trajectory.argmax[0])
