"""Answer every line of a file of prompts, as one JSON object a line.

python examples/many_prompts.py PROMPTS.txt [BUNDLE] > answers.jsonl
"""

import json
import sys
from pathlib import Path

from dgemma import DgemmaError, Session

if len(sys.argv) < 2:
    raise SystemExit("usage: many_prompts.py PROMPTS.txt [BUNDLE]")
PROMPTS = Path(sys.argv[1])
BUNDLE = sys.argv[2] if len(sys.argv) > 2 else "tiny"

with Session.load(BUNDLE) as session:  # once: loading takes longer than answering
    for number, line in enumerate(PROMPTS.read_text(encoding="utf-8").splitlines()):
        if not (prompt := line.strip()):
            continue
        try:
            result = session.generate(prompt, seed=number)
            answer = {"prompt": prompt, "text": result.text, "steps": result.steps, "stop_reason": result.stop_reason}
        except DgemmaError as error:
            answer = {"prompt": prompt, "error": str(error)}
        print(json.dumps(answer, ensure_ascii=False), flush=True)
