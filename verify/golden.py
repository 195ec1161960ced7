"""Golden trajectories: fixed prompts and seeds, replayed by the artifact itself and by the float model in eager PyTorch.

`golden.npz` holds, for run i = 0…: `artifact_i_NAME` and `float_i_NAME` with NAME as in a trace (see
`core/trajectory.py`), and `seeds`. The artifact's are of the bundle's first engine on one thread. A file that `write_reference`
makes holds `reference_i_NAME`, `seeds`, and `made`: UTF-8 JSON that says how it was made and what a reader has to know.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dgemma.core.errors import BundleError, PromptTooLong, UsageError
from dgemma.core.manifest import Manifest
from dgemma.core.trajectory import Array, Trajectory, write_npz
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session

if TYPE_CHECKING:
    from dgemma.verify.backend import Backend

FILE = "golden.npz"
SEED = 20_260_101
MAX_NEW_TOKENS = 128
LARGE = 200_000_000  # parameters, beyond which a canvas takes minutes: one golden run, and that on request


def prompts(vocab_size: int, count: int = 4, length: int = 24) -> list[list[int]]:
    """Ids for checkpoints without a text of their own: spread over the vocabulary, the same on every machine."""
    return [[(7919 * (i + 1) * (j + 1)) % vocab_size for j in range(length + i)] for i in range(count)]


def beyond_window(text: str, window: int, tokens: int) -> str:
    """The text again and again, until a prompt of it is longer than the sliding window; `tokens` is how many one has."""
    return " ".join([text] * (1 + -(-(window + 32) // max(1, tokens))))


def write(bundle: Path, folder: Path | None, texts: list[str]) -> None:
    """Run and write `golden.npz` into a bundle that is being made.

    Args:
        folder: checkpoint to run the float model from; None leaves it out.
        texts: prompts for bundles with a chat template; others get ids. Where there is room, the first one is asked once more,
            so often that the prompt is longer than the sliding window. Large models run the first one alone.
    """
    arrays: dict[str, Array] = {}
    with Session.load(bundle, threads=1) as session:
        manifest = session.bundle.manifest
        model = manifest.model
        chat = session.bundle.manifest.chat is not None
        room = session.bundle.manifest.context - session.bundle.manifest.canvas_length
        if chat and texts and session.tokenizer is not None:
            tokens = len(session.tokenizer.encode(texts[0]))
            texts = [*texts, beyond_window(texts[0], model.sliding_window, tokens)]
        runs: list[str | list[int]] = [*texts] if chat else [ids[:room] for ids in prompts(model.vocab_size)]
        kept: list[int] = []
        for i, prompt in enumerate(runs[:1] if is_large(session.bundle.manifest) else runs):
            session.reset()
            try:
                result = session.generate(prompt, max_new_tokens=MAX_NEW_TOKENS, seed=SEED + i, trace=True)
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
            most = room_for(manifest, ids)
            done = generate.generate(loaded.model, manifest.sampler, ids, seed=seed, max_new_tokens=most)
            _put(arrays, f"float_{i}", done.trajectory)
    arrays["seeds"] = np.array(kept, np.uint64)
    write_npz(bundle / FILE, dict(sorted(arrays.items())))


def write_reference(
    path: Path, backend: Backend, manifest: Manifest, runs: Sequence[tuple[int, Trajectory]], made: dict[str, Any]
) -> list[Trajectory]:
    """Generate the runs' prompts with a backend, and write its trajectories to an `.npz`, see the head of this module.

    Args:
        runs: seed, and a trajectory whose prompt is taken.
        made: what to say of the making, JSON types; canvas length, vocabulary, stop tokens and sampler are added.
    Returns:
        the trajectories.
    Raises:
        UsageError: the file cannot be written.
    """
    arrays: dict[str, Array] = {}
    prompts = [(seed, trajectory.prompt_ids.tolist()) for seed, trajectory in runs]
    written = [backend.trajectory(ids, seed, room_for(manifest, ids)) for seed, ids in prompts]
    for i, trajectory in enumerate(written):
        _put(arrays, f"reference_{i}", trajectory)
    model = manifest.model
    facts = {
        **made,
        "canvas_length": manifest.canvas_length,
        "vocab_size": model.vocab_size,
        "max_new_tokens": MAX_NEW_TOKENS,
        "eos_token_ids": list(model.eos_token_ids),
        "sampler": manifest.sampler.to_dict(),
    }
    arrays["made"] = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
    arrays["seeds"] = np.array([seed for seed, _ in runs], np.uint64)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_npz(temporary, dict(sorted(arrays.items())))
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"--write-golden {path}: cannot be written ({error.strerror}); choose another file") from None
    finally:
        temporary.unlink(missing_ok=True)
    return written


def room_for(manifest: Manifest, ids: Sequence[int]) -> int:
    """Tokens to ask for after a prompt: `MAX_NEW_TOKENS`, or as many whole canvases as the context has room for."""
    n = manifest.canvas_length
    return min(MAX_NEW_TOKENS, (manifest.context - len(ids)) // n * n)


def is_large(manifest: Manifest) -> bool:
    return int(manifest.quantization.get("parameters", 0)) > LARGE


def _put(arrays: dict[str, Array], stem: str, trajectory: Trajectory) -> None:
    arrays.update({f"{stem}_{name}": array for name, array in trajectory.arrays().items()})


def read(bundle: Bundle, stem: str = "artifact") -> list[tuple[int, Trajectory]]:
    """Seed and trajectory of every golden run of the artifact, or of the `float` model where it was recorded; else none.

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
                start = f"{stem}_{i}_"
                arrays = {name.removeprefix(start): archive[name] for name in archive.files if name.startswith(start)}
                if arrays or stem == "artifact":
                    runs.append((int(seed), Trajectory(**arrays)))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"{path}: holds no golden trajectories ({reason}); export the bundle again") from None
    if not runs and stem == "artifact":
        raise BundleError(f"{path}: holds no golden trajectories; give --checkpoint to compare with the float model")
    return runs
