"""How probable the denoiser finds each of a few answers: by the chain rule, one position after the other.

docs/guides/structure.md has the formula. It knows ids, and nothing of engines or texts. N canvas, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dgemma.runtime.cut_draw import Candidates
from dgemma.runtime.structure.viterbi import Scores

LEAST = 1e-300  # stands for a probability of 0
Ids = tuple[int, ...]
# Ids that a canvas begins with → the candidates [1, K] of the position behind them, where the rest is noise.
Behind = Callable[[Ids], Candidates]


def log_probabilities(choices: Sequence[Ids], stops: Sequence[int], vocab: int, behind: Behind) -> list[float]:
    """Σ log p of each choice's ids and of any stop token behind them, in nats; beginnings that choices share run once."""
    known: dict[Ids, Scores] = {}

    def score(begun: Ids, ids: Sequence[int]) -> float:
        if begun not in known:
            known[begun] = Scores.of(*behind(begun), vocab)
        row = known[begun]
        found = [float(row.log_probs[0, np.argmax(row.ids[0] == i)] if i in row.ids[0] else row.floor[0]) for i in ids]
        return math.log(max(sum(math.exp(value) for value in found), LEAST))

    totals = []
    for choice in choices:
        each = [score(choice[:at], [choice[at]]) for at in range(len(choice))]
        totals.append(sum(each) + score(choice, stops))
    return totals


def normalized(log_probabilities: Sequence[float]) -> list[float]:
    """As probabilities that sum to 1."""
    most = max(log_probabilities)
    weights = [math.exp(value - most) for value in log_probabilities]
    return [weight / sum(weights) for weight in weights]
