"""Makes a signed debug APK of the demo app from the command line, and checks it. `make apk` calls this.

    python android_demo/apk/make_apk.py [--bundle FOLDER] [--aar FILE.aar] [--abi arm64-v8a …] [--out FILE.apk]

Native code comes out of an onnxruntime-android AAR: --aar, ONNXRUNTIME_AAR, or the newest in the local Maven repository.
Without one the APK has none; that is said here and in the report. Exit status 0 = built and checked, 1 = a check does not
hold, 2 = something is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tools
from alignment import PAGE, stored
from checks import Inputs, check_all
from report import show
from tools import ANDROID_DEMO, ApkError, run

MIN_SDK, TARGET_SDK, PACKAGE = 26, 35, "org.dgemma.demo"
ROOT = ANDROID_DEMO.parent
SHIPPED = ROOT / "src/dgemma/bundles/tiny.dgemma"
RESOURCES = ANDROID_DEMO / "runtime/src/main/resources"
ASSET = "tiny.dgemma"
MAPPED = (".bin", ".onnx")  # stay uncompressed, so that they are read without a second copy
_PASSWORD = "android"  # of the debug key, which protects nothing


@dataclass(frozen=True, kw_only=True)
class Options:
    bundle: Path
    aar: Path | None
    abis: tuple[str, ...]
    out: Path
    work: Path
    framework: Path


class Build:
    """The steps of one build, each a folder or file below `work`."""

    def __init__(self, options: Options) -> None:
        self.options, self.work = options, options.work
        version = tools.versions()
        self.android = tools.jar("org.robolectric", "android-all", version["android-all"])
        self.oldest = tools.jar("org.robolectric", "android-all", version["android-all-oldest"])
        self.onnxruntime = tools.jar("com.microsoft.onnxruntime", "onnxruntime", version["onnxruntime"])
        self.jspecify = tools.jar("org.jspecify", "jspecify", version["jspecify"])
        self.r8 = tools.jar("com.android.tools", "r8", version["r8"])

    def apk(self) -> Path:
        """Everything, in order."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        base = self._resources()
        classes = self._compile()
        dex = self._dex(classes)
        self._pack(base, dex)
        self._sign()
        return self.options.out

    def _resources(self) -> Path:
        """Resources and manifest, compiled and linked; R.java below `work`/gen."""
        source, compiled, base = ANDROID_DEMO / "app/src/main", self.work / "resources.zip", self.work / "base.apk"
        run(["aapt2", "compile", "--dir", source / "res", "-o", compiled])
        run(
            [
                "aapt2",
                "link",
                "-I",
                self.options.framework,
                "--manifest",
                source / "AndroidManifest.xml",
                "--java",
                self.work / "gen",
                "--auto-add-overlay",
                "-o",
                base,
                compiled,
            ]
        )
        return base

    def engine_classes(self) -> Path:
        """ONNX Runtime's Java classes: those of the AAR, else of the Java release."""
        path = self.work / "onnxruntime-classes.jar"
        if not path.is_file():
            if self.options.aar:
                with zipfile.ZipFile(self.options.aar) as aar:
                    path.write_bytes(aar.read("classes.jar"))
            else:
                with zipfile.ZipFile(self.onnxruntime) as given, zipfile.ZipFile(path, "w") as made:
                    for name in given.namelist():
                        if name.endswith(".class"):
                            made.writestr(zipfile.ZipInfo(name), given.read(name))
        return path

    def _compile(self) -> list[Path]:
        """Class files of library and app; of the ExecuTorch declarations too, which are not packed."""
        engine = self.engine_classes()
        stubs = self._javac("stubs", [ANDROID_DEMO / "executorch-stubs/src/main/java"], [self.jspecify])
        tokenizers = self._javac("tokenizers", [ANDROID_DEMO / "tokenizers/src/main/java"], [self.jspecify])
        sources = [ANDROID_DEMO / "runtime/src/main/java"]
        runtime = self._javac("runtime", sources, [tokenizers, stubs, engine, self.jspecify])
        sources = [ANDROID_DEMO / "app/src/main/java", self.work / "gen"]
        app = self._javac("app", sources, [tokenizers, runtime, engine, self.android, self.jspecify])
        return [tokenizers, runtime, app]

    def _javac(self, name: str, sources: Iterable[Path], classpath: Iterable[Path]) -> Path:
        out = self.work / "classes" / name
        out.mkdir(parents=True)
        files = sorted(str(path) for source in sources for path in source.rglob("*.java"))
        if files:
            listed = self.work / f"{name}.txt"
            listed.write_text("\n".join(files), encoding="utf-8")
            path = os.pathsep.join(map(str, classpath))
            settings = ["--release", "8", "-nowarn", "-g:source,lines", "-encoding", "UTF-8"]
            run(["javac", *settings, "-cp", path, "-d", out, f"@{listed}"])
        return out

    def _dex(self, classes: list[Path]) -> list[Path]:
        """Two files, our code and the engine's: what ours asks of the engine can be told from what it asks of itself."""
        program = [path for folder in classes for path in sorted(folder.rglob("*.class"))]
        engine = self.engine_classes()
        return [self._d8("ours", program, [engine, self.work / "classes/stubs"]), self._d8("engine", [engine], [])]

    def _d8(self, name: str, program: Iterable[Path], classpath: Iterable[Path]) -> Path:
        out = self.work / "dex" / name
        out.mkdir(parents=True)
        listed = out / "program.txt"
        listed.write_text("\n".join(map(str, program)), encoding="utf-8")
        command: list[str | Path] = ["java", "-Xmx768m", "-cp", self.r8, "com.android.tools.r8.D8", "--debug"]
        command += ["--min-api", str(MIN_SDK), "--lib", self.android]
        run([*command, *(part for path in classpath for part in ("--classpath", path)), "--output", out, f"@{listed}"])
        made = sorted(out.glob("*.dex"))
        if len(made) != 1:
            raise ApkError(f"D8 made {len(made)} files of {name}, and the layout of the APK is one; shrink it with R8")
        return made[0]

    def _pack(self, base: Path, dex: Iterable[Path]) -> None:
        """One zip: what must be mapped is stored, libraries at page borders."""
        files = {f"classes{n if n > 1 else ''}.dex": path.read_bytes() for n, path in enumerate(dex, 1)}
        for path in sorted(p for p in RESOURCES.rglob("*") if p.is_file() and "META-INF" not in p.parts):
            files[path.relative_to(RESOURCES).as_posix()] = path.read_bytes()
        for path in sorted(p for p in self.options.bundle.rglob("*") if p.is_file()):
            files[f"assets/{ASSET}/{path.relative_to(self.options.bundle).as_posix()}"] = path.read_bytes()
        if self.options.aar:
            files |= native_libraries(self.options.aar, self.options.abis)
        with zipfile.ZipFile(base) as linked, zipfile.ZipFile(self.work / "unsigned.apk", "w") as apk:
            for entry in linked.infolist():
                self._write(apk, entry.filename, linked.read(entry), entry.compress_type == zipfile.ZIP_STORED)
            for name, data in files.items():
                self._write(apk, name, data, name.endswith((".so", *MAPPED)))

    @staticmethod
    def _write(apk: zipfile.ZipFile, name: str, data: bytes, plain: bool) -> None:
        if plain:
            assert apk.fp is not None
            apk.writestr(stored(name, PAGE if name.endswith(".so") else 4, apk.fp.tell()), data)
        else:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            apk.writestr(entry, data, zipfile.ZIP_DEFLATED, 9)

    def _sign(self) -> None:
        """With a debug key that is made once, beside the build; the signer keeps the alignment that entries ask for."""
        key = self.options.out.parent / "debug.keystore"
        if not key.is_file():
            run([
                "keytool", "-genkeypair", "-keystore", key, "-storetype", "PKCS12", "-storepass", _PASSWORD, "-alias", "debug",
                "-keyalg", "RSA", "-keysize", "2048", "-validity", "10950", "-dname", "CN=dgemma debug",
            ])  # fmt: skip
        self.options.out.unlink(missing_ok=True)
        run([
            "apksigner", "sign", "--ks", key, "--ks-pass", f"pass:{_PASSWORD}", "--min-sdk-version", str(MIN_SDK),
            "--v1-signing-enabled", "false", "--v2-signing-enabled", "true", "--v3-signing-enabled", "true",
            "--v4-signing-enabled", "false", "--out", self.options.out, self.work / "unsigned.apk",
        ])  # fmt: skip

    def _library(self) -> Path:
        """What an app takes of the library, Maven's two jars in one."""
        folders = (self.work / "classes/tokenizers", self.work / "classes/runtime", RESOURCES)
        path = self.work / "dgemma-library.jar"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for folder in folders:
                for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                    made.write(file, file.relative_to(folder).as_posix())
        return path

    def inputs(self) -> Inputs:
        """What the checks compare with."""
        return Inputs(
            framework=self.android,
            oldest=self.oldest,
            engine=self.engine_classes(),
            stubs=self.work / "classes/stubs",
            java_home=tools.java_home(),
            package=PACKAGE,
            min_sdk=MIN_SDK,
            target_sdk=TARGET_SDK,
            abis=self.options.abis,
            asset=ASSET,
            library=self._library(),
        )


def native_libraries(aar: Path, abis: Iterable[str]) -> dict[str, bytes]:
    """`lib/ABI/NAME.so` → bytes; raises ApkError when an ABI has none."""
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(aar) as opened:
        for abi in abis:
            names = [n for n in opened.namelist() if n.startswith(f"jni/{abi}/") and n.endswith(".so")]
            if not names:
                raise ApkError(f"{aar.name}: has no native libraries of {abi}; give another --abi or AAR")
            found |= {f"lib/{abi}/{Path(n).name}": opened.read(n) for n in names}
    return found


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="make_apk.py", description="Make and check the demo app's APK.")
    parser.add_argument("--bundle", type=Path, default=SHIPPED, help="the bundle in the assets, the shipped one by default")
    parser.add_argument("--aar", default=os.environ.get("ONNXRUNTIME_AAR"), help="an onnxruntime-android AAR")
    parser.add_argument("--abi", action="append", help="arm64-v8a (default), x86_64, …; repeat for several")
    parser.add_argument("--out", type=Path, default=ROOT / "build/apk/dgemma-demo.apk")
    parser.add_argument("--framework", type=Path, default=tools.FRAMEWORK, help="framework-res.apk or android.jar to link with")
    given = parser.parse_args()
    if not (given.bundle / "manifest.json").is_file():
        raise ApkError(f"--bundle {given.bundle}: no bundle there; make one with dgemma export --engine onnx --recipe w8")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    return Options(
        bundle=given.bundle,
        aar=tools.aar(given.aar),
        abis=tuple(given.abi or ["arm64-v8a"]),
        out=given.out,
        work=given.out.parent / "work",
        framework=given.framework,
    )


def main() -> int:
    try:
        options = _options()
        tools.need(options.framework)
        build = Build(options)
        apk = build.apk()
        report = check_all(apk, build.inputs())
    except ApkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    apk.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)
    return 0 if all(check["holds"] for check in report["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
