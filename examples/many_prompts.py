"""Answer every line of a file of prompts, as one JSON object a line.

python examples/many_prompts.py PROMPTS.txt [BUNDLE] > answers.jsonl
"""

import json
import sys
from pathlib import Path

from dgemma import DgemmaError, Session

if len(sys.argv) < 2:
    print("usage: many_prompts.py PROMPTS.txt [BUNDLE]", file=sys.stderr)
    sys.exit(2)
PROMPTS = Path(sys.argv[1])
BUNDLE = sys.argv[2] if len(sys.argv) > 2 else "tiny"

try:
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    session = Session.load(BUNDLE)  # once: loading takes longer than answering
except (DgemmaError, OSError, UnicodeDecodeError) as error:  # one line that says what is wrong
    print(f"{PROMPTS}: is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error, file=sys.stderr)
    sys.exit(2)

with session:
    for number, line in enumerate(lines):
        if not (prompt := line.strip()):
            continue
        try:
            result = session.generate(prompt, seed=number)
            answer = {"prompt": prompt, "text": result.text, "steps": result.steps, "stop_reason": result.stop_reason}
        except DgemmaError as error:
            answer = {"prompt": prompt, "error": str(error)}
        print(json.dumps(answer, ensure_ascii=False), flush=True)
