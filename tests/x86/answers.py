"""What a bundle gives for a prompt of ids on this processor, as a line of JSON, for `test_hide.py`.

    python tests/x86/answers.py BUNDLE [--inexact]

`--inexact` leaves products to onnxruntime as they are.
"""

from __future__ import annotations

import hashlib
import json
import sys

from dgemma import Session
from dgemma.core import machine
from dgemma.runtime.engines import exact_products

PROMPT, TOKENS = [5, 6, 7], 40
WAYS = {"host": {}, "graph": {"loop": "graph"}, "early_commit": {"early_commit": 0.5, "recheck": True}}


def answers(path: str) -> dict[str, str]:
    """Tokens and every bit of every entropy, hashed, by way to generate."""
    found = {}
    with Session.load(path, engine="onnx", threads=1) as session:
        for name, options in WAYS.items():
            result = session.generate(PROMPT, max_new_tokens=TOKENS, trace=True, **options)
            assert result.trajectory is not None
            found[name] = hashlib.sha256(repr(result.tokens).encode() + result.trajectory.entropy.tobytes()).hexdigest()
        found["decode"] = repr(session.decode_greedy(PROMPT, max_new_tokens=TOKENS).tokens)
    return found


if __name__ == "__main__":
    saturates = exact_products.saturates()
    if "--inexact" in sys.argv:
        exact_products.saturates = lambda: False
    int8 = machine.int8_path(machine.cpu_flags())[0]
    print(json.dumps({"saturates": saturates, "int8": int8, "answers": answers(sys.argv[1])}))
