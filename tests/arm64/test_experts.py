"""The native kernels on emulated ARM64 processors: those for experts give the bits of x86's portable one.

Takes Debian's `g++-aarch64-linux-gnu` and `qemu-user`; left out where they are not installed.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import native_attention
import native_experts
import numpy as np
import pytest

from dgemma.runtime.native import build

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PROCESSORS = {
    "cortex-a53": ["portable"],
    "cortex-a76": ["dotprod", "portable"],
    "max": ["i8mm", "dotprod", "portable"],
}
pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR) and shutil.which("g++")),
    reason=f"takes {COMPILER} (g++-aarch64-linux-gnu) and {EMULATOR} (qemu-user)",
)


def built(name: str, folder: Path) -> Path:
    """The program of `NAME.cpp` with all kernels."""
    out = folder / name
    shared = ("-shared", "-fPIC", "-fvisibility=hidden")
    command = [part for part in build.experts_command(out, COMPILER) if part not in shared]
    source = Path(__file__).with_name(f"{name}.cpp")
    subprocess.run([*command, "-static", f"-I{build.EXPERTS[0].parent / name}", str(source)], check=True)
    return out


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("experts", tmp_path_factory.mktemp("arm64"))


@pytest.mark.parametrize(
    "shape",
    [(8, 3, 50, 21, 0, 13, 2), (4, 3, 192, 64, 64, 29, 2), (4, 2, 40, 24, 8, 1, 1), (4, 2, 192, 128, 64, 3, 1)],
    ids=str,
)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_same_bits(processor: str, shape: tuple[int, ...], program: Path, tmp_path: Path) -> None:
    bits, number, hidden, width, group, count, chosen = shape
    pair = native_experts.matrices(bits, number, hidden, width, group)
    given = native_experts.rows(count, hidden, number, chosen)
    sizes, arrays = native_experts.flat(*pair)
    written = struct.pack("8i", *sizes, count, chosen)
    for array in (*arrays, *given):
        written += struct.pack("q", array.nbytes) + np.ascontiguousarray(array).tobytes()
    (tmp_path / "in").write_bytes(written)
    subprocess.run([EMULATOR, "-cpu", processor, program, tmp_path / "in", tmp_path / "out"], check=True)
    wanted = native_experts.run(*pair, *given, kernel="portable").tobytes()
    found = (tmp_path / "out").read_bytes()
    assert found == b"".join(f"{name}\n".encode() + wanted for name in PROCESSORS[processor])


@pytest.mark.parametrize("shape", [(1, 130, 8, 2, 40), (20, 70, 4, 2, 32)], ids=str)
def test_attention(shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays = native_attention.inputs(*shape)
    given = struct.pack("6i", *shape, len(arrays[5])) + b"".join(a.tobytes() for a in arrays)
    (tmp_path / "in").write_bytes(given)
    program = built("attention", tmp_path)
    subprocess.run([EMULATOR, "-cpu", "cortex-a53", program, tmp_path / "in", tmp_path / "out"], check=True)
    found, wanted = (tmp_path / "out").read_bytes(), native_attention.twin(arrays)
    for name in (b"neon\n", b"portable\n"):
        size = arrays[0].nbytes
        assert found.startswith(name)
        made = np.frombuffer(found[len(name) : len(name) + size], np.float32).reshape(wanted.shape)
        assert np.abs(made - wanted).max() < 2e-5
        found = found[len(name) + size :]
    assert not found
