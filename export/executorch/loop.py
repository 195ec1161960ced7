"""`generate` in ExecuTorch: the step is lowered before it is looped, so its weights are packed once.

The step arrives as an already lowered module. A scan runs all T rounds; once the stop rule holds, a `cond` skips the
step, so that a round costs nothing. (ExecuTorch has no while_loop.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from dgemma.export.graphs import Steer, StopRule


class ScanGenerate(nn.Module):
    """T rounds over a lowered `denoise`; rows of the per-step outputs at and after `steps` repeat the last step."""

    def __init__(self, step: nn.Module, vocab_size: int, hidden: int) -> None:
        super().__init__()
        self.step, self.steer, self.stop, self.hidden = step, Steer(vocab_size), StopRule(), hidden

    def forward(
        self,
        canvas: Tensor,
        words: Tensor,
        adaptive: Tensor,
        temperatures: Tensor,
        bounds: Tensor,
        most_steps: Tensor,
        confidence: Tensor,
        stability: Tensor,
        prefix_length: Tensor,
        prefix: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """canvas [1, N], words [T, 2, N], adaptive bool [1], temperatures [T], bounds [T], most_steps, confidence, stability
        [1] → committed [1, N], steps [1], then per step [T, N] each."""
        n, steps = canvas.shape[1], words.shape[0]
        last = torch.arange(1, steps + 1)[:, None] >= most_steps  # [T, 1]

        def run(*state: Tensor) -> tuple[Tensor, ...]:
            current, soft, best, still, _, _, words, temperature, bound, is_last = state
            step = self.step(current, soft, words, temperature, prefix_length, prefix)
            _, argmax, entropy, _, soft, drawn = step[:6]
            following, accepted = self.steer(words, argmax, entropy, drawn, temperature, bound)
            still, settled = self.stop(argmax, best, still, entropy, confidence, stability)
            return following, soft, argmax, still, entropy, accepted, settled & adaptive | is_last

        def skip(*state: Tensor) -> tuple[Tensor, ...]:
            current, soft, best, still, entropy, accepted, _, temperature, _, _ = state
            return (
                current.clone(),
                soft.clone(),
                best.clone(),
                still.clone(),
                entropy.clone(),
                accepted.clone(),
                temperature > 0,
            )

        def round_(carry: tuple[Tensor, ...], xs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            *state, stopped = carry
            current, soft, best, still, entropy, accepted, now = torch.cond(stopped, skip, run, (*state, *xs))
            out = (best.clone(), current.clone(), entropy.clone(), accepted.clone(), (~stopped).long())
            return (current, soft, best, still, entropy, accepted, now), out

        start = (
            canvas.clone(),
            torch.zeros(1, n, self.hidden),
            canvas * 0 - 1,
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, n),
            torch.zeros(1, n, dtype=torch.bool),
            torch.zeros(1, dtype=torch.bool),
        )
        end, (best, current, entropy, accepted, ran) = scan(
            round_, start, (words, temperatures[:, None], bounds[:, None], last)
        )
        return (
            end[2].clone(),
            ran.sum(0),
            best.squeeze(1),
            current.squeeze(1),
            entropy.squeeze(1),
            accepted.squeeze(1),
        )
