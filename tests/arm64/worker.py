"""Runs prompts through one bundle and engine and saves each trajectory, on this machine or emulated. It uses the runtime alone.

    python worker.py BUNDLE ENGINE PROMPTS.json OUT

OUT gets NNN.npz for every prompt, and facts.json at the end; what is there is not run again.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

from dgemma.runtime.session import Session


def features() -> str:
    """What the processor says that it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("Features", "flags"))), "")


def main(bundle: str, engine: str, prompts: str, out: str) -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    seconds, known = 0.0, folder / "facts.json"
    if known.exists():
        seconds = json.loads(known.read_text())["seconds"]
    with Session.load(bundle, engine=engine, threads=1) as session:
        for i, item in enumerate(json.loads(Path(prompts).read_text())):
            path = folder / f"{i:03}.npz"
            if path.exists():
                continue
            started = time.perf_counter()
            result = session.generate(
                item["prompt"], seed=item["seed"], max_new_tokens=item["max_new_tokens"], raw=item["raw"], trace=True
            )
            seconds += time.perf_counter() - started
            assert result.trajectory is not None
            result.trajectory.save(path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            variant = getattr(session._engine, "variant", None)
            facts = {
                "machine": platform.machine(),
                "features": features(),
                "engine_version": session.engine_version,
                "variant": variant,
                "seconds": round(seconds, 1),
            }
            known.write_text(json.dumps(facts))
            print(f"{i} {result.steps} steps", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
