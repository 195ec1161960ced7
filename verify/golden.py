"""Golden trajectories: fixed prompts and seeds, replayed by the artifact itself and by the float model in eager PyTorch.

`golden.npz` holds, for run i = 0…: `artifact_i_NAME` and `float_i_NAME` with NAME as in a trace (see
`core/trajectory.py`), and `seeds`. The artifact's are of the bundle's first engine on one thread.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from dgemma.core.errors import BundleError, PromptTooLong
from dgemma.core.manifest import Manifest
from dgemma.core.trajectory import Array, Trajectory, write_npz
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session

FILE = "golden.npz"
SEED = 20_260_101
MAX_NEW_TOKENS = 128
LARGE = 200_000_000  # parameters, beyond which a canvas takes minutes: one golden run, and that on request


def prompts(vocab_size: int, count: int = 4, length: int = 24) -> list[list[int]]:
    """Ids for checkpoints without a text of their own: spread over the vocabulary, the same on every machine."""
    return [[(7919 * (i + 1) * (j + 1)) % vocab_size for j in range(length + i)] for i in range(count)]


def write(bundle: Path, folder: Path | None, texts: list[str], max_new_tokens: int = MAX_NEW_TOKENS) -> None:
    """Run and write `golden.npz` into a bundle that is being made.

    Args:
        folder: checkpoint to run the float model from; None leaves it out.
        texts: prompts for bundles with a chat template; others get ids. Large models run the first one alone.
    """
    arrays: dict[str, Array] = {}
    with Session.load(bundle, threads=1) as session:
        model = session.bundle.manifest.model
        chat = session.bundle.manifest.chat is not None
        room = session.bundle.manifest.context - session.bundle.manifest.canvas_length
        runs: list[str | list[int]] = [*texts] if chat else [ids[:room] for ids in prompts(model.vocab_size)]
        kept: list[int] = []
        for i, prompt in enumerate(runs[:1] if is_large(session.bundle.manifest) else runs):
            session.reset()
            try:
                result = session.generate(prompt, max_new_tokens=max_new_tokens, seed=SEED + i, trace=True)
            except PromptTooLong:  # a context this short holds fewer of them
                continue
            assert result.trajectory is not None
            _put(arrays, f"artifact_{len(kept)}", result.trajectory)
            kept.append(SEED + i)
    if folder is not None:
        from dgemma.model import checkpoint, generate  # torch, which a replay does without

        loaded = checkpoint.load(folder)
        for i, seed in enumerate(kept):
            ids = [int(t) for t in arrays[f"artifact_{i}_prompt_ids"]]
            done = generate.generate(loaded.model, loaded.sampler, ids, seed=seed, max_new_tokens=max_new_tokens)
            _put(arrays, f"float_{i}", done.trajectory)
    arrays["seeds"] = np.array(kept, np.uint64)
    write_npz(bundle / FILE, dict(sorted(arrays.items())))


def is_large(manifest: Manifest) -> bool:
    return int(manifest.quantization.get("parameters", 0)) > LARGE


def _put(arrays: dict[str, Array], stem: str, trajectory: Trajectory) -> None:
    arrays.update({f"{stem}_{name}": array for name, array in trajectory.arrays().items()})


def read(bundle: Bundle) -> list[tuple[int, Trajectory]]:
    """Seed and trajectory of every golden run of the artifact.

    Raises:
        BundleError: there is no `golden.npz`, or it does not hold what `write` writes.
    """
    if FILE not in bundle.manifest.files:
        raise BundleError(f"{bundle.path}: has no {FILE} to replay; give --checkpoint to compare with the float model")
    path = bundle.file(FILE)
    try:
        with np.load(path, allow_pickle=False) as archive:
            runs = []
            for i, seed in enumerate(archive["seeds"].tolist()):
                stem = f"artifact_{i}_"
                arrays = {name.removeprefix(stem): archive[name] for name in archive.files if name.startswith(stem)}
                runs.append((int(seed), Trajectory(**arrays)))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"{path}: holds no golden trajectories ({reason}); export the bundle again") from None
    if not runs:
        raise BundleError(f"{path}: holds no golden trajectories; give --checkpoint to compare with the float model")
    return runs
