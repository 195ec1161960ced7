"""Denoising one canvas with less work: the rule of `core/compute_policy.py` once more, as one program of one shape.

All N positions are computed in every step. Those that would not run are seen by nobody, or with the keys and values of their
last pass, and decide nothing any more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.config import ModelConfig
from dgemma.core.sampler import SamplerConfig
from dgemma.reference import denoiser, sampler
from dgemma.reference.generate import Canvas, generate, temperatures
from dgemma.reference.weights import Weights


class State(NamedTuple):
    """Between two steps; bool and integer scalars are []."""

    record: Canvas
    width: Array  # positions that the canvas has so far
    canvas: Array  # int32 [N]
    soft: Array  # [N, D]
    caches: denoiser.Prefix
    committed: Array  # bool [N]
    entropy: Array  # float32 [N]
    accepted: Array  # bool [N]
    unchanged: Array
    compared: Array  # the width that the last argmax canvas had
    closed: Array
    rechecking: Array
    done: Array


def active(
    weights: Weights,
    config: ModelConfig,
    policy: SamplerConfig,
    compute: ComputePolicy,
    canvas: Array,
    words: Array,
    adaptive: Array,
    prefix: denoiser.Prefix,
    length: Array,
) -> tuple[Canvas, Array]:
    """Denoise one canvas; arguments as in `generate.generate`. Also how many positions the canvas has in the end, int32 []."""
    steps, n = policy.steps, canvas.shape[0]
    schedule, positions = jnp.asarray(temperatures(policy)), jnp.arange(n, dtype=jnp.int32)
    stop_ids = jnp.array(sorted(config.eos_token_ids), jnp.int32)

    def unfinished(state: State) -> Array:
        return (state.record.steps < steps) & ~(state.done & adaptive)

    def body(state: State) -> State:
        i = state.record.steps
        width = jnp.where(state.closed, state.width, jnp.minimum(2 * state.width, n))
        within = positions < width
        committed = state.committed & ~(within & (state.committed | ~within).all())
        running = within & ~committed
        logits, new = denoiser.denoise_active(
            weights, config, state.canvas, positions, state.soft, state.caches, length, committed, running
        )
        tempered = logits / schedule[i]
        step = sampler.step(tempered, words[i], policy.entropy_bound, running)

        def of_running(fresh: Array, old: Array) -> Array:
            return jnp.where(running, fresh, old)

        argmax, entropy = of_running(step.argmax, state.record.committed), of_running(step.entropy, state.entropy)
        committed = of_running(step.entropy < compute.early_commit, committed)
        width, committed, stopped = _end_at_stop_token(argmax, stop_ids, committed, width)
        within = positions < width
        closed = (width == n) | stopped
        unchanged, still = _stable(state, policy, argmax, entropy, width)
        done = closed & (still | (committed | ~within).all())
        again = done & ~state.rechecking if compute.recheck else jnp.bool_(False)
        committed |= within & again

        canvas = jnp.where(committed, argmax, of_running(step.canvas, state.canvas))
        soft = jnp.where(running[:, None], denoiser.soft_embed(weights, config, tempered, policy.top_k), state.soft)
        accepted = of_running(step.accepted, state.accepted)
        return State(
            record=state.record.followed_by(argmax, canvas, entropy, accepted),
            width=width,
            canvas=canvas,
            soft=soft,
            caches=_with_rows(state.caches, new, running, length),
            committed=committed,
            entropy=entropy,
            accepted=accepted,
            unchanged=unchanged,
            compared=width,
            closed=closed,
            rechecking=again,
            done=done & ~again,
        )

    soft = jnp.zeros((n, config.hidden_size), weights["embed"].dtype)
    state = lax.while_loop(unfinished, body, _start(steps, compute, canvas, soft, prefix))
    return state.record, state.width


def _start(steps: int, compute: ComputePolicy, canvas: Array, soft: Array, prefix: denoiser.Prefix) -> State:
    n = canvas.shape[0]
    none, no, zero = jnp.zeros(n, jnp.bool_), jnp.bool_(False), jnp.int32(0)
    return State(
        record=Canvas.empty(jnp.zeros(n, jnp.int32), steps),
        width=jnp.int32(compute.first_width(n)),
        canvas=canvas,
        soft=soft,
        caches=prefix,
        committed=none,
        entropy=jnp.zeros(n, jnp.float32),
        accepted=none,
        unchanged=zero,
        compared=zero,
        closed=jnp.bool_(True),
        rechecking=no,
        done=no,
    )


def _end_at_stop_token(argmax: Array, stop_ids: Array, committed: Array, width: Array) -> tuple[Array, Array, Array]:
    """The canvas ends behind its first committed stop token: width, committed positions, and whether it has any stop token."""
    n, positions = argmax.shape[0], jnp.arange(argmax.shape[0], dtype=jnp.int32)
    within = positions < width
    stops = jnp.isin(argmax, stop_ids) & within
    ends = stops & committed
    end = jnp.where(ends.any(), jnp.argmax(ends), n)
    return jnp.minimum(width, end + 1).astype(jnp.int32), committed | (within & (positions > end)), stops.any()


def _stable(state: State, policy: SamplerConfig, argmax: Array, entropy: Array, width: Array) -> tuple[Array, Array]:
    """For how many steps the argmax canvas has been the same, and whether adaptive stop ends the canvas for that."""
    n = argmax.shape[0]
    within = jnp.arange(n, dtype=jnp.int32) < width
    same = (width == state.compared) & ((argmax == state.record.committed) | ~within).all()
    unchanged = jnp.where(same, state.unchanged + 1, 0)
    mean = jnp.where(within, entropy.astype(jnp.float64), 0.0).sum() / n
    return unchanged, (unchanged >= policy.stability_threshold) & (mean < policy.confidence_threshold)


def _with_rows(caches: denoiser.Prefix, new: denoiser.Prefix, running: Array, length: Array) -> denoiser.Prefix:
    """The caches with the new keys and values of the positions that ran, behind the prefix."""

    def place(cache: Array, rows: Array) -> Array:
        old = lax.dynamic_slice_in_dim(cache, length, running.shape[0], 1)
        return lax.dynamic_update_slice_in_dim(cache, jnp.where(running[:, None, None], rows, old), length, 1)

    return jax.tree.map(place, caches, new)


def jitted(config: ModelConfig, policy: SamplerConfig, compute: ComputePolicy | None) -> Any:
    """`active`, or the stock loop without `compute`: a function of (weights, canvas, words, adaptive, prefix, length), compiled
    on the first call for each shape."""

    def run(
        weights: Weights, canvas: Array, words: Array, adaptive: Array, prefix: denoiser.Prefix, length: Array
    ) -> tuple[Canvas, Array]:
        if compute is not None:
            return active(weights, config, policy, compute, canvas, words, adaptive, prefix, length)
        stock = generate(weights, config, policy, canvas, words, adaptive, prefix, length)
        return stock, jnp.int32(canvas.shape[0])

    return jax.jit(run)
