"""Whether an APK is what it should be. Every check is told what it compares with; none looks at how the APK was made."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dex
from alignment import PAGE, data_offset, elf_alignment
from classfile import Declared, Jar, JavaApi, Known, Source, parse
from tools import ApkError, run

Json = dict[str, Any]
LIBRARY_LIMIT, APK_LIMIT = 600 * 1024, 45_000_000
ENGINES = {"ai/onnxruntime/": "ONNX Runtime", "org/pytorch/executorch/": "ExecuTorch"}
# Used only where Build.VERSION.SDK_INT says that they exist; a class that stands alone covers its members.
GUARDED = {
    "android/os/PowerManager.getCurrentThermalStatus": 29,
    "android/os/Build.SOC_MANUFACTURER": 31,
    "android/os/Build.SOC_MODEL": 31,
}
# D8 keeps annotations that no code can ask for on Android.
ANNOTATIONS = ("org/jspecify/annotations/", "java/lang/annotation/", "dalvik/annotation/")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an APK is compared with: class jars by role, the ids that it should have, and where its library was compiled."""

    framework: Path
    oldest: Path
    engine: Path
    stubs: Path
    java_home: Path
    package: str
    min_sdk: int
    target_sdk: int
    abis: tuple[str, ...]
    asset: str
    library: Path


class Folder:
    """Class files in a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, name: str) -> Declared | None:
        path = self._path / f"{name}.class"
        return parse(path.read_bytes()) if path.is_file() else None


def check_all(apk: Path, given: Inputs) -> Json:
    """A report in JSON types: checks with what they found, sizes, and whether the APK can run a model."""
    with zipfile.ZipFile(apk) as opened:
        files = [dex.parse(opened.read(name)) for name in opened.namelist() if re.fullmatch(r"classes\d*\.dex", name)]
    checks = {
        "signature": signature(apk),
        "manifest": badging(run(["aapt2", "dump", "badging", apk]), given),
        "references": references(files, given),
        "older Android": newer_than(files, Jar(given.oldest), Jar(given.framework)),
        "engine methods": engine_methods(files, given),
        "ExecuTorch adapter": adapter(files),
        "pages of 16 KB": pages(apk),
        "bundle": bundle(apk, given.asset),
        "size of the APK": size(apk, APK_LIMIT),
        "size of the library": size(given.library, LIBRARY_LIMIT),
    }
    sizes = {**size_report(apk), "library": given.library.stat().st_size}
    missing = [abi for abi in given.abis if "libonnxruntime.so" not in sizes["native"].get(abi, {})]
    return {
        "apk": apk.name,
        "sha256": hashlib.sha256(apk.read_bytes()).hexdigest(),
        "runs_models": not missing,
        "without_native_code": missing,
        "sizes": sizes,
        "checks": [{"name": name, "holds": not found, "problems": found} for name, found in checks.items()],
    }


def signature(apk: Path) -> list[str]:
    """Problems of the signature, none when schemes 2 and 3 verify."""
    try:
        said = run(["apksigner", "verify", "--verbose", apk])
    except ApkError as error:
        return [str(error)]
    return [f"not signed by scheme v{n}" for n in (2, 3) if not re.search(rf"using v{n} scheme .*: true", said)]


def badging(said: str, given: Inputs) -> list[str]:
    """Problems in what `aapt2 dump badging` prints: package, versions, permissions, an activity to launch."""
    expected = {
        "package": rf"^package: name='{re.escape(given.package)}'",
        "minSdk": rf"^sdkVersion:'{given.min_sdk}'",
        "targetSdk": rf"^targetSdkVersion:'{given.target_sdk}'",
        "launcher": r"^launchable-activity: name='.+?'",
    }
    found = [f"no {name} as expected" for name, pattern in expected.items() if not re.search(pattern, said, re.M)]
    return found + [f"asks for {name}" for name in re.findall(r"^uses-permission\S*: name='([^']+)'", said, re.M)]


def references(files: list[dex.Dex], given: Inputs) -> list[str]:
    """Classes, methods and fields that the code names and nothing declares.

    Declared is what the APK defines, Java 8, and the framework; for ExecuTorch, which is not packed, our own declarations.
    """
    declared = [file.classes for file in files]
    known = Known([*declared, JavaApi(given.java_home), Folder(given.stubs), Jar(given.framework)])
    return _unresolved(files, known, lambda name: not name.startswith(ANNOTATIONS))


def _unresolved(files: Iterable[dex.Dex], known: Known, wanted: Callable[[str], bool]) -> list[str]:
    found = set()
    for file in files:
        found |= {f"no class {name}" for name in file.types if wanted(name) and known.get(name) is None}
        for kind, members in (("methods", file.methods), ("fields", file.fields)):
            for owner, member in members:
                if wanted(owner) and known.get(owner) is not None and not known.has(owner, member, kind):
                    found.add(f"no {kind[:-1]} {owner}.{member[0]}{member[1]}")
    return sorted(found)


def newer_than(files: list[dex.Dex], oldest: Source, newest: Source) -> list[str]:
    """What the framework has but the oldest Android that the app takes has not, where no guard is known."""
    known = Known([oldest])
    framework = Known([newest])
    found = set()
    for file in files:
        for name in file.types:
            if framework.get(name) and not known.get(name) and not name.startswith("java/"):
                found.add(name)
        for kind, members in (("methods", file.methods), ("fields", file.fields)):
            for owner, member in members:
                both = framework.get(owner) and known.get(owner)
                if both and framework.has(owner, member, kind) and not known.has(owner, member, kind):
                    found.add(f"{owner}.{member[0]}")
    return [f"{name} is newer than minSdk and no guard is known" for name in sorted(found) if name not in GUARDED]


def engine_methods(files: list[dex.Dex], given: Inputs) -> list[str]:
    """Methods and fields that our code uses of an engine and the engine's own classes, or our declarations, lack.

    Ours is every dex file that defines no class of an engine. The jar is asked, not the APK, which holds its classes as well.
    """
    prefixes = tuple(ENGINES)
    ours = [file for file in files if not any(name.startswith(prefixes) for name in file.classes)]
    known = Known([Jar(given.engine), Folder(given.stubs), JavaApi(given.java_home)])
    return _unresolved(ours, known, lambda name: name.startswith(prefixes))


def adapter(files: list[dex.Dex]) -> list[str]:
    """The ExecuTorch adapter is there, and ExecuTorch itself is not, so that asking for it gives a typed error."""
    names = {name for file in files for name in file.classes}
    found = [] if "org/dgemma/runtime/engine/ExecuTorchEngine" in names else ["the adapter's class is missing"]
    return found + [f"{name} is packed: a declaration, not the library" for name in sorted(names) if "pytorch" in name]


def pages(apk: Path) -> list[str]:
    """Libraries that a device with pages of 16 KB could not map out of the APK."""
    found = []
    with zipfile.ZipFile(apk) as opened:
        for entry in opened.infolist():
            if not entry.filename.endswith(".so"):
                continue
            if entry.compress_type != zipfile.ZIP_STORED:
                found.append(f"{entry.filename} is compressed")
            elif data_offset(apk, entry) % PAGE:
                found.append(f"{entry.filename} begins at {data_offset(apk, entry)}, inside a page")
            try:
                if (alignment := elf_alignment(opened.read(entry))) < PAGE:
                    found.append(f"{entry.filename} has segments aligned to {alignment}")
            except ValueError as error:
                found.append(f"{entry.filename}: {error}")
    return found


def bundle(apk: Path, asset: str) -> list[str]:
    """Files of the bundle in the assets that are missing, damaged, or compressed where they are to be mapped."""
    found = []
    with zipfile.ZipFile(apk) as opened:
        entries = {entry.filename: entry for entry in opened.infolist()}
        prefix = f"assets/{asset}/"
        if f"{prefix}manifest.json" not in entries:
            return [f"no {prefix}manifest.json"]
        manifest = json.loads(opened.read(f"{prefix}manifest.json"))
        for name, entry in manifest["files"].items():
            packed = entries.get(prefix + name)
            if packed is None:
                found.append(f"{name} is missing")
            elif hashlib.sha256(opened.read(packed)).hexdigest() != entry["sha256"]:
                found.append(f"{name} is damaged")
            elif name.endswith((".bin", ".onnx")) and packed.compress_type != zipfile.ZIP_STORED:
                found.append(f"{name} is compressed")
    return found


def size(path: Path, limit: int) -> list[str]:
    return [] if path.stat().st_size <= limit else [f"{path.stat().st_size} bytes, more than {limit}"]


def size_report(apk: Path) -> Json:
    """Bytes as the APK holds them, by part; native libraries by ABI, in the APK and as they came."""
    parts = {"code": 0, "resources": 0, "bundle": 0}
    native: dict[str, dict[str, int]] = {}
    with zipfile.ZipFile(apk) as opened:
        for entry in opened.infolist():
            kind, _, rest = entry.filename.partition("/")
            if kind == "lib":
                native.setdefault(rest.partition("/")[0], {})[Path(rest).name] = entry.compress_size
            else:
                part = "code" if kind.endswith(".dex") else "bundle" if kind == "assets" else "resources"
                parts[part] += entry.compress_size
    return {"apk": apk.stat().st_size, "limit": APK_LIMIT, **parts, "native": native}
