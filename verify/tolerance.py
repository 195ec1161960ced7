"""How far a backend may be from the one above it, and why that far and no farther.

The figures were measured on tiny and on small random checkpoints; each limit leaves about a factor of ten for other machines
and larger models, and lies well below what the faults of the tests do. `reference/README.md` has the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dgemma.verify.divergence import NEAR, Rule


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of one backend against another.

    Args:
        tensors: relative error (root of Σ error² over root of Σ reference²) of keys, values, soft embeddings and taps.
        logits: largest error of a logit over the range of logits.
        entropy: largest error of an entropy, in nats.
        argmax, canvas: shares of positions whose argmax, or whose next token, is another, all steps together. A flat
            distribution draws other tokens after any rounding, so `canvas` is 1 where weights or tensors are rounded.
        margins: how near to a tie the first difference of two generations must be, by rule (`divergence.py`); None: not judged.
        reason: in a few words, for people.
    """

    tensors: float
    logits: float
    entropy: float
    argmax: float
    canvas: float
    margins: dict[Rule, float] | None = field(default_factory=lambda: dict(NEAR))
    reason: str

    def __post_init__(self) -> None:
        if not min(self.tensors, self.logits, self.entropy) > 0:
            raise ValueError(f"{self.tensors=}, {self.logits=} and {self.entropy=} must be above 0")


# First differences of generations on the same integers. Their logits differ by up to 0.8 % of the range, which is 0.3 of ±19: a
# decision that was nearer than twice that, over the temperature, may go the other way.
INTEGER_TIES: dict[Rule, float] = {"argmax": 0.5, "accept": 0.1, "sample": 0.05, "stop": 0.05, "host": 0.0}

SAME_FLOAT = Tolerance(
    tensors=1e-4,
    logits=1e-4,
    entropy=1e-2,
    argmax=1e-3,
    canvas=2e-3,
    reason="the same float32 arithmetic, summed in another order",
)
BFLOAT16 = Tolerance(
    tensors=0.25,
    logits=0.25,
    entropy=2.0,
    argmax=0.05,
    canvas=1.0,
    margins=None,
    reason="every named tensor rounded to 8 bits of mantissa; large if weights are random",
)
SAME_INTEGERS = Tolerance(
    tensors=0.1,
    logits=0.05,
    entropy=0.5,
    argmax=0.01,
    canvas=0.1,
    margins=INTEGER_TIES,
    reason="the same integer products; a last bit before activations are rounded moves some to the next integer",
)
EIGHT_BITS = Tolerance(
    tensors=0.15,
    logits=0.1,
    entropy=1.0,
    argmax=0.02,
    canvas=1.0,
    margins=None,
    reason="weights and activations of 8 bits",
)
FOUR_BITS = Tolerance(
    tensors=0.5,
    logits=0.3,
    entropy=2.5,
    argmax=0.1,
    canvas=1.0,
    margins=None,
    reason="some weights of 4 bits, activations of 8",
)


# An NPU's graphs of integers as they are written: activations in 16 bits, where the processor's graphs have 8 per token.
# Measured on tiny (`w8a16`): logits 0.013 of their range, tensors 0.02, entropies 0.05 nats.
SIXTEEN_BITS = replace(
    EIGHT_BITS, reason="the same integers; inputs of products in 16 bits of a static range, above in 8 bits of each token's"
)
# Measured on tiny's golden prompts (`w8a16`): logits 3e-3 of their range, tensors 4e-3, entropies 0.02 nats; on large random
# weights 9e-3, 0.02 and 0.06.
EMULATED = Tolerance(
    tensors=0.05,
    logits=0.02,
    entropy=0.5,
    argmax=0.01,
    canvas=0.1,
    margins=INTEGER_TIES,
    reason="float16 between products, and sums of the NPU",
)

# A position that a near-tied router sends to another expert is another one from there on. Measured on tiny-moe at 8 bits: ONNX
# Runtime against torch on the same integers 0.09 of the range of logits, 0.11 of tensors, and a draw 0.07 from a border; torch
# on integers against float 0.10 and 0.14.
_MIXTURE = "near-tied routers then choose other experts"
SAME_INTEGERS_OF_MIXTURE = replace(
    SAME_INTEGERS,
    tensors=0.3,
    logits=0.2,
    entropy=1.5,
    argmax=0.03,
    margins={**INTEGER_TIES, "sample": 0.2},
    reason=f"{SAME_INTEGERS.reason}; {_MIXTURE}",
)
EIGHT_BITS_OF_MIXTURE = replace(
    EIGHT_BITS, tensors=0.4, logits=0.25, entropy=2.0, argmax=0.05, reason=f"{EIGHT_BITS.reason}; {_MIXTURE}"
)


def same_integers(*, mixture: bool) -> Tolerance:
    """An engine against torch on the same integers."""
    return SAME_INTEGERS_OF_MIXTURE if mixture else SAME_INTEGERS


def of_bits(least: int, *, mixture: bool = False) -> Tolerance:
    """A model with its matrices as integers of `least` bits or more, against the float model."""
    if least >= 16:
        return SAME_FLOAT
    if least == 8:
        return EIGHT_BITS_OF_MIXTURE if mixture else EIGHT_BITS
    return FOUR_BITS


def widest(*tolerances: Tolerance) -> Tolerance:
    """Of a backend against one farther up: what any backend between them may do."""
    return Tolerance(
        tensors=max(t.tensors for t in tolerances),
        logits=max(t.logits for t in tolerances),
        entropy=max(t.entropy for t in tolerances),
        argmax=max(t.argmax for t in tolerances),
        canvas=max(t.canvas for t in tolerances),
        margins=None if any(t.margins is None for t in tolerances) else max((t.margins or {} for t in tolerances), key=_argmax),
        reason="; ".join(dict.fromkeys(t.reason for t in tolerances)),
    )


def _argmax(margins: dict[Rule, float]) -> float:
    return margins.get("argmax", 0.0)
