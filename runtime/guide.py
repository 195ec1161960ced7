"""The second pass of a guided step: the same canvas behind a negative prompt, or with less self-conditioning.

It knows nothing of how canvases follow each other. N canvas, D hidden.
"""

from __future__ import annotations

import numpy as np

from dgemma.core.guidance import Guidance
from dgemma.runtime import finite
from dgemma.runtime.engines.base import Array, Engine, Feeds
from dgemma.runtime.prefix import Prefix

GUIDED = "denoise_guided"


class Guide:
    """Of one generation.

    Args:
        prefix: of the negative prompt and what was committed; None: the generation's own.
    """

    def __init__(self, guidance: Guidance, engine: Engine, prefix: Prefix | None) -> None:
        self.guidance, self.prefix = guidance, prefix
        self._engine = engine
        self._scale = np.array([guidance.scale], np.float32)
        self._one = np.ones(1, np.float32)

    @classmethod
    def of(cls, guidance: Guidance | None, engine: Engine) -> Guide | None:
        """With the negative prompt, which is ids, in a prefix of its own; None where nothing is guided."""
        if guidance is None or guidance.scale == 1:
            return None
        prefix = None
        if (negative := guidance.negative) is not None:
            assert not isinstance(negative, str), "what is text has become ids by now"
            prefix = Prefix(engine)
            prefix.extend(negative)
        engine.prepare(GUIDED)
        return cls(guidance, engine, prefix)

    def guides(self, step: int) -> bool:
        """Whether the step is no plain one; without a negative prompt, the first has nothing to leave out."""
        return self.guidance.guides(step) and (self.prefix is not None or step > 1)

    def run(self, feeds: Feeds, accepted: Array | None, place: str) -> Feeds:
        """Both passes of a step.

        Args:
            feeds: of `denoise`.
            accepted: bool [N], by the step before; None in the first.
            place: the step's, for an error.
        Returns:
            the outputs of the guided step.
        Raises:
            EngineError: also where an output is NaN.
        """
        other = {**feeds, "guidance": self._one, "negative": np.zeros_like(feeds["soft"])}
        if self.prefix is not None:
            length = np.array([self.prefix.encoded], np.int64)
            other |= {**self.prefix.feeds(GUIDED), "prefix_length": length}
        elif accepted is not None:
            other["soft"] = np.where(accepted[None, :, None], feeds["soft"], np.float32(0))
        negative = finite.run(self._engine, GUIDED, other, place)["hidden"]
        return finite.run(self._engine, GUIDED, {**feeds, "guidance": self._scale, "negative": negative}, place)
