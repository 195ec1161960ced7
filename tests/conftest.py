"""Fixtures that several folders of tests share. A bundle is exported once a run, when a test asks for it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import shared
from hypothesis import settings

# Without bytecode each of the many processes that tests start would compile the sources of torch again, for 10 s and more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Before any import of torch and transformers: threads that wait for each other make tiny shapes slower, most of all on a
# busy machine; and no test may reach a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Programs that the JAX reference has compiled are kept for this run: many tests compile the same one, and so do two workers,
# which are started after this and find the folder named.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _PROGRAMS = TemporaryDirectory(prefix="dgemma-jax-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# Under nohup SIGINT is ignored, and children inherit that; tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dgemma", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("dgemma")

ROOT = Path(__file__).resolve().parent.parent
# One file for each of the longest shared exports: workers that begin with different ones do not wait for each other.
FIRST = ("vectors/test_trajectories.py", "unit/test_native_packed.py", "parity/test_graphs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These files first, and all others in their order."""
    rank = {ROOT / "tests" / name: i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """The collector passes over the libraries and tests that are loaded by now: exports, and engines that pack weights, collect
    what they leave behind, and would look at all of it for a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def shared_bundles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the workers of this run keep what they export."""
    shared.begin(request.session, tmp_path_factory)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """The shipped checkpoint; a checkout without it is broken, so it is no reason to skip."""
    folder = ROOT / "checkpoints" / "tiny"
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    assert not missing, f"{folder} lacks {missing}"
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(request: pytest.FixtureRequest) -> Path:
    """A float32 bundle of the tiny checkpoint with both engines; read-only by convention: copy it to damage it.

    DGEMMA_TINY_BUNDLE names one that was exported before.
    """
    if given := os.environ.get("DGEMMA_TINY_BUNDLE"):
        bundle = Path(given).resolve()
        assert (bundle / "manifest.json").is_file(), f"DGEMMA_TINY_BUNDLE={given} is no bundle"
        return bundle
    from dgemma.cli.export import GOLDEN_PROMPTS
    from dgemma.export.pipeline import export_bundle
    from dgemma.verify import golden

    checkpoint: Path = request.getfixturevalue("tiny_checkpoint")

    def export(out: Path) -> Path:
        def finish(stage: Path) -> None:
            golden.write(stage, checkpoint, GOLDEN_PROMPTS)

        return export_bundle(checkpoint, out, engines=("onnx", "executorch"), finish=finish)

    return shared.bundle("tiny", export)


@pytest.fixture(scope="module")
def unoptimized_jax() -> Iterator[None]:
    """For programs that run a few times: XLA's optimizations would take longer than they save."""
    jax = pytest.importorskip("jax")
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
