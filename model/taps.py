"""Tensors inside the model by name, for who compares one implementation with another.

Names: `embedded`, `conditioned` (denoise), `hidden` (after the final norm), and for layer I `layers.I.` with `attention_in`
(after input_layernorm), `q`, `k` (after norm and rope), `v` (after norm), `attention_out` (after o_proj), `mlp_in` (after
pre_feedforward_layernorm), in a mixture `router` (scores before the softmax), `mlp_out` (before post_feedforward_layernorm),
`out` (times the layer scalar).
Outside `collecting` a tap costs a comparison with None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

Sink = Callable[[str, Tensor], Tensor]
_sink: Sink | None = None


def tap(name: str, x: Tensor) -> Tensor:
    """x, or what the sink makes of it."""
    return x if _sink is None else _sink(name, x)


@contextmanager
def collecting(sink: Sink) -> Iterator[None]:
    """Hand every tapped tensor to `sink`, which returns what goes on in its place; not for several threads at once."""
    global _sink
    before, _sink = _sink, sink
    try:
        yield
    finally:
        _sink = before
