"""An ARM64 Python with numpy, onnxruntime and the executorch wheel, and an emulator for it; everything below one folder.

From Debian's archive come qemu-user and Python, unpacked and never installed; from PyPI the wheels, in the versions of the
Python that runs this. It needs apt-get, dpkg, Debian's keyring, and for ExecuTorch a cross-compiler, which the runtime itself
calls: `apt-get install g++-aarch64-linux-gnu`. On an ARM64 machine nothing is fetched and nothing emulated.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

QEMU_SUITE, SUITE = "trixie", "bookworm"  # qemu-user before 10 crashes in onnxruntime; the wheels fit bookworm's Python 3.11
PYTHON = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib")
LIBRARIES = (
    "libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libssl3", "libbz2-1.0", "liblzma5", "libffi8", "libuuid1",
    "libcrypt1",
)  # fmt: skip
JAVA = ("openjdk-17-jre-headless",)  # its own libraries link only to some of those above
WHEELS = ("numpy", "onnxruntime", "executorch", "sentencepiece", "tokenizers")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
COMPILER = "aarch64-linux-gnu-g++"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_MIRROR = "http://deb.debian.org/debian"


class Missing(Exception):
    """Something of the host is missing; one line with the cure."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a Python script is run on ARM64.

    Args:
        emulator: command that a CPU's name and then the interpreter are put behind; empty on ARM64 itself.
        python: the interpreter, with its options.
        path: folders for PYTHONPATH, before the project's own.
        facts: versions, for the report.
    """

    emulator: tuple[str, ...]
    python: tuple[str, ...]
    path: tuple[Path, ...]
    facts: dict[str, str]

    def command(self, cpu: str) -> list[str]:
        emulator = [*self.emulator, "-cpu", cpu] if self.emulator else []
        return [*emulator, *self.python]

    def environment(self, source: Path, cache: Path) -> dict[str, str]:
        paths = os.pathsep.join(str(p) for p in (*self.path, source))
        more = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DGEMMA_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
        if self.emulator:
            more["CXX"] = os.environ.get("CXX", COMPILER)
        return {**os.environ, **more}


def prepare(work: Path) -> Machine:
    """Fetch and unpack what is not there yet; raises Missing, CalledProcessError, OSError."""
    versions = {name: metadata.version(name) for name in WHEELS}
    if platform.machine() in ("aarch64", "arm64"):
        return Machine(emulator=(), python=(sys.executable,), path=(), facts=versions)
    _check_host()
    qemu = _unpacked(work / "qemu", QEMU_SUITE, _host(), ("qemu-user",), work)
    root = _unpacked(work / "root", SUITE, "arm64", (*PYTHON, *LIBRARIES), work)
    site = _wheels(work / "site", versions)
    program = str(qemu / "usr/bin/qemu-aarch64")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return Machine(
        emulator=(program, "-L", str(root)),
        python=(str(root / "usr/bin/python3.11"),),
        path=(site,),
        facts={**versions, "emulator": version},
    )


def java(work: Path) -> tuple[list[str], dict[str, str]]:
    """Emulator and ARM64 Java, the CPU's name to go before the last word, and versions; raises as `prepare`."""
    if platform.machine() in ("aarch64", "arm64"):
        raise Missing("this is an ARM64 machine; run the JVM tool on it, and on an x86 machine, and compare its JSON lines")
    _check_host()
    program = str(_unpacked(work / "qemu", QEMU_SUITE, _host(), ("qemu-user",), work) / "usr/bin/qemu-aarch64")
    root = _unpacked(work / "java-root", SUITE, "arm64", (*JAVA, *LIBRARIES), work)
    home = root / "usr/lib/jvm/java-17-openjdk-arm64"
    config = home / "lib/jvm.cfg"
    if not config.exists():  # Debian keeps it, and security settings, in /etc, where its links lead to on this machine
        for link in [p for p in home.rglob("*") if p.is_symlink() and str(p.readlink()).startswith("/etc/")]:
            target = root / str(link.readlink()).lstrip("/")
            link.unlink()
            if target.is_dir():
                shutil.copytree(target, link)
            elif target.exists():
                shutil.copy(target, link)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    release = dict(line.split("=", 1) for line in (home / "release").read_text().splitlines())
    return [program, "-L", str(root), str(home / "bin/java")], {"emulator": version, "java": release["JAVA_VERSION"].strip('"')}


def digest(file: Path) -> str:
    """8 hexadecimal digits of a file's content and of the names and sizes of what is beside it in lib/."""
    sums = hashlib.sha256(file.read_bytes())
    for jar in sorted((file.parent / "lib").glob("*.jar")):
        sums.update(f"{jar.name} {jar.stat().st_size}".encode())
    return sums.hexdigest()[:8]


def _check_host() -> None:
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Missing(f"{tool} is missing; run this on Debian or Ubuntu, or on an ARM64 machine")
    if not Path(_KEYRING).is_file():
        raise Missing(f"{_KEYRING} is missing; apt-get install debian-archive-keyring")


def _host() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def _unpacked(folder: Path, suite: str, architecture: str, packages: Sequence[str], work: Path) -> Path:
    """Packages of a suite, unpacked; apt keeps its lists and state below `work`, not in the system's folders."""
    if folder.exists():
        return folder
    state = work / "apt" / f"{suite}-{architecture}"
    for name in ("lists/partial", "archives/partial", "debs"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_MIRROR} {suite} main\n")
    options = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::sourcelist": state / "sources.list",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    _run([*apt, "update"], state)
    _run([*apt, "download", *packages], state / "debs")
    stage = folder.with_name(folder.name + ".part")
    shutil.rmtree(stage, ignore_errors=True)
    for deb in sorted((state / "debs").glob("*.deb")):
        _run(["dpkg", "-x", str(deb), str(stage)], state)
    stage.rename(folder)
    return folder


def _wheels(folder: Path, versions: dict[str, str]) -> Path:
    """ARM64 wheels of these versions, unpacked, without what they depend on: the runtime needs none of it."""
    if folder.exists():
        return folder
    stage, files = folder.with_name(folder.name + ".part"), folder.with_name("wheels")
    shutil.rmtree(stage, ignore_errors=True)
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    platforms = [option for name in PLATFORMS for option in ("--platform", name)]
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            "311",
            *platforms,
            "-d",
            str(files),
            *wanted,
        ],
        folder.parent,
    )
    for wheel in files.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(stage)
    stage.rename(folder)
    return folder


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Missing(f"`{' '.join(command[:1] + command[-2:])}` failed: {last}")
