"""Embed dgemma and watch every denoising step.

python examples/embed_callback.py [BUNDLE]
"""

import sys

from dgemma import DgemmaError, Session
from dgemma.runtime.result import StepEvent

BUNDLE = sys.argv[1] if len(sys.argv) > 1 else "tiny"


def on_step(event: StepEvent) -> None:
    print(f"step {event.step}: {int(event.accepted.sum())} accepted, {float(event.entropy.mean()):.3f} nats  {event.text()}")


try:
    with Session.load(BUNDLE) as session:
        result = session.generate("Write 4271 in words.", seed=0, on_step=on_step)
except DgemmaError as error:  # one line that says what is wrong, and the cure
    print(error, file=sys.stderr)
    sys.exit(2)
print(f"{result.text}\n{result.steps} steps, {result.tokens_per_forward:.1f} tokens per forward, {result.stop_reason}")
