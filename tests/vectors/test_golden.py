"""golden-tiny.npz: the example reader reads it and notices changes, and what an export recorded agrees with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parent
FILE, READER = FOLDER / "golden-tiny.npz", FOLDER / "read_golden.py"


def read(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, READER, path], capture_output=True, text=True)


def test_the_example_reader_needs_numpy_alone_and_forty_lines() -> None:
    done = read(FILE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("follows the contract") == done.stdout.count("\n") == 5
    lines = READER.read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 40
    imports = {line for line in lines if line.startswith(("import", "from"))}
    assert imports == {"import json", "import sys", "import numpy as np"}


@pytest.mark.parametrize("name", ["canvas_in", "canvas_out", "accepted", "entropy"])
def test_the_example_reader_notices_a_change(name: str, tmp_path: Path) -> None:
    with np.load(FILE) as archive:
        arrays = dict(archive)
    array = arrays[f"reference_2_{name}"]
    row, position = np.argwhere(~arrays["reference_2_accepted"])[0]
    before = array[row, position]
    array[row, position] = 0.0 if name == "entropy" else not before if name == "accepted" else before + 1
    np.savez(tmp_path / "changed.npz", **arrays)
    done = read(tmp_path / "changed.npz")
    assert done.returncode == 1 and "AssertionError: row" in done.stderr


def test_the_export_agrees_with_the_reference(tiny_bundle: Path) -> None:
    """Artifact and float model as the export recorded them, and the committed reference: the same, but for near-ties."""
    from dgemma.core.trajectory import Trajectory
    from dgemma.runtime.bundle import Bundle
    from dgemma.verify import golden
    from dgemma.verify.divergence import first_divergence

    bundle = Bundle.open(tiny_bundle)
    with np.load(FILE) as archive:
        for stem in ("artifact", "float"):
            recorded = golden.read(bundle, stem)
            assert [seed for seed, _ in recorded] == archive["seeds"].tolist()
            for i, (seed, trajectory) in enumerate(recorded):
                start = f"reference_{i}_"
                arrays: dict[str, Any] = {k.removeprefix(start): archive[k] for k in archive.files if k.startswith(start)}
                found = first_divergence(Trajectory(**arrays), trajectory, bundle.manifest.sampler, seed=seed)
                assert found is None or found.is_near_tie, (stem, i, found)
