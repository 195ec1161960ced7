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
    stop_ids, none = jnp.array(sorted(config.eos_token_ids), jnp.int32), jnp.zeros(n, jnp.bool_)
    no, zero = jnp.bool_(False), jnp.int32(0)
    start = State(
        record=Canvas.empty(jnp.zeros(n, jnp.int32), steps),
        width=jnp.int32(compute.first_width(n)),
        canvas=canvas,
        soft=jnp.zeros((n, config.hidden_size), weights["embed"].dtype),
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

        def place(cache: Array, rows: Array) -> Array:
            old = lax.dynamic_slice_in_dim(cache, length, n, 1)
            return lax.dynamic_update_slice_in_dim(cache, jnp.where(running[:, None, None], rows, old), length, 1)

        def of_running(fresh: Array, old: Array) -> Array:
            return jnp.where(running, fresh, old)

        last = state.record.committed
        argmax, entropy = of_running(step.argmax, last), of_running(step.entropy, state.entropy)
        committed = of_running(step.entropy < compute.early_commit, committed)
        stops = jnp.isin(argmax, stop_ids) & within
        ends = stops & committed
        end = jnp.where(ends.any(), jnp.argmax(ends), n)
        committed |= within & (positions > end)
        width = jnp.minimum(width, end + 1).astype(jnp.int32)
        within = positions < width
        closed = (width == n) | stops.any()

        same = (width == state.compared) & ((argmax == last) | ~within).all()
        unchanged = jnp.where(same, state.unchanged + 1, 0)
        mean = jnp.where(within, entropy.astype(jnp.float64), 0.0).sum() / n
        still = (unchanged >= policy.stability_threshold) & (mean < policy.confidence_threshold)
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
            caches=jax.tree.map(place, state.caches, new),
            committed=committed,
            entropy=entropy,
            accepted=accepted,
            unchanged=unchanged,
            compared=width,
            closed=closed,
            rechecking=again,
            done=done & ~again,
        )

    state = lax.while_loop(unfinished, body, start)
    return state.record, state.width


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
