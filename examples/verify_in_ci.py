"""After an export in CI: fail the job when the engines of a bundle differ from each other or from what the export recorded.

    python examples/verify_in_ci.py BUNDLE [CHECKPOINT]

With the checkpoint, the reference and PyTorch are compared as well. The exit status is that of `dgemma verify`.
"""

import json
import subprocess
import sys

if len(sys.argv) < 2:
    print("usage: verify_in_ci.py BUNDLE [CHECKPOINT]", file=sys.stderr)
    sys.exit(2)
command = [sys.executable, "-m", "dgemma.cli", "verify", sys.argv[1], "--json"]
if len(sys.argv) > 2:
    command += ["--checkpoint", sys.argv[2], "--golden-only"]
done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
if done.returncode == 2:  # bad input: the reason is on stderr
    sys.exit(2)
verdict = json.loads(done.stdout)
print(f"bundle {verdict['digest'][:12]}: {'passed' if verdict['passed'] else 'MISSED'}")
sys.exit(done.returncode)
