"""Plan in code: the configurations of a model that reach a wanted rate on a device, smallest first.

python examples/plan_device.py [MODEL DEVICE TOKENS_PER_SECOND]
"""

import json
import subprocess
import sys

try:
    model, device, wanted = sys.argv[1:] or ("2b", "phone-flagship", "5")
    rate = float(wanted)
except ValueError:
    print("usage: plan_device.py [MODEL DEVICE TOKENS_PER_SECOND]", file=sys.stderr)
    sys.exit(2)
command = [sys.executable, "-m", "dgemma.cli", "plan", model, "--device", device, "--json"]
done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
if done.returncode:  # the reason is on stderr
    sys.exit(done.returncode)
plan = json.loads(done.stdout)

for one in sorted(plan["predictions"], key=lambda one: one["disk_bytes"]):
    slowest = min(one["diffusion_tokens_per_s"])  # at the larger number of steps a canvas
    if one["fits"] and slowest >= rate:
        print(f"{one['recipe']}, {one['engine']}: {one['disk_bytes'] / 1e9:.2f} GB, {slowest:.1f} tokens/s by diffusion")
print(plan["sentence"])
