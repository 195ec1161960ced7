"""The checkpoint as it was before fine-tuning, which says what is to stay on replayed rows (Li and Hoiem, arXiv 1606.09282)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from dgemma.model.denoiser import Denoiser
from dgemma.train import lora


class Original:
    """A frozen copy of a model whose weights are trained; of one with adapters the model itself, with them switched off.

    Args:
        weight: of what it says in both losses, beside the 1 of answers; λₒ there.
    """

    def __init__(self, model: Denoiser, weight: float = 1.0) -> None:
        self.weight = weight
        self._adapted = lora.is_attached(model)
        self._model = model if self._adapted else copy.deepcopy(model).requires_grad_(False)

    @property
    def copied(self) -> int:
        """Parameters that are held a second time."""
        return 0 if self._adapted else sum(p.numel() for p in self._model.parameters())

    @contextmanager
    def model(self) -> Iterator[Denoiser]:
        """The model as it was, while it lasts."""
        if not self._adapted:
            yield self._model
            return
        with lora.switched_off(self._model):
            yield self._model
