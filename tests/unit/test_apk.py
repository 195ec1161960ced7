"""The checks of an APK, each with something that it has to find. Java code of the tests is compiled by javac and by D8."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import packages
import pytest

APK = Path(__file__).resolve().parents[2] / "android_demo" / "apk"
sys.path.insert(0, str(APK))

import alignment  # noqa: E402
import checks  # noqa: E402
import classfile  # noqa: E402
import dex  # noqa: E402
import make_apk  # noqa: E402
import tools  # noqa: E402

R8 = tools.repository() / "com/android/tools/r8" / tools.versions()["r8"] / f"r8-{tools.versions()['r8']}.jar"
JDK = packages.missing(packages.JAVA[:1])
needs_java = pytest.mark.skipif(
    bool(JDK) and not packages.in_ci(), reason=f"left out: Java ({packages.install(packages.JAVA[:1])})"
)
needs_r8 = pytest.mark.skipif(not R8.is_file(), reason="no R8 jar; run `make apk` once")

SCREEN = "package android.app; public class Screen { public void show() {} }"
FRAMEWORK = {"android/app/Screen.java": SCREEN.replace("{}", "{} public void glow() {}")}
OLDER = {"android/app/Screen.java": SCREEN}
ENGINE = {
    "ai/onnxruntime/Run.java": "package ai.onnxruntime; public class Run { public static int go(int n) { return n; } "
    "public static int stop() { return 0; } }"
}
OURS = {
    "org/dgemma/runtime/engine/ExecuTorchEngine.java": "package org.dgemma.runtime.engine; public class ExecuTorchEngine "
    "extends android.app.Screen { public int all() { show(); glow(); Runnable r = () -> ai.onnxruntime.Run.go(1); r.run(); "
    "return new java.util.ArrayList<String>().size() + hashCode(); } }"
}


def jar(folder: Path, name: str, sources: dict[str, str], *classpath: Path) -> Path:
    """Sources, compiled into a jar."""
    root, out = folder / f"{name}-java", folder / f"{name}-classes"
    for path, text in sources.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    out.mkdir()
    path = ":".join(map(str, classpath)) or "."
    files = [str(root / path) for path in sources]
    subprocess.run(["javac", "--release", "8", "-nowarn", "-cp", path, "-d", str(out), *files], check=True, capture_output=True)
    with zipfile.ZipFile(folder / f"{name}.jar", "w") as made:
        for file in out.rglob("*.class"):
            made.write(file, file.relative_to(out).as_posix())
    return folder / f"{name}.jar"


def dexed(folder: Path, program: Path, *classpath: Path) -> dex.Dex:
    out = folder / f"{program.stem}-dex"
    out.mkdir()
    command = ["java", "-cp", str(R8), "com.android.tools.r8.D8", "--min-api", "26", "--lib", str(tools.java_home())]
    for path in classpath:
        command += ["--classpath", str(path)]
    subprocess.run([*command, "--output", str(out), str(program)], check=True, capture_output=True)
    return dex.parse((out / "classes.dex").read_bytes())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Jars, and our code as a dex file."""
    folder = tmp_path_factory.mktemp("apk")
    jars = {name: jar(folder, name, sources) for name, sources in (("new", FRAMEWORK), ("old", OLDER), ("engine", ENGINE))}
    ours = jar(folder, "ours", OURS, jars["new"], jars["engine"])
    files = [dexed(folder, ours, jars["new"], jars["engine"]), dexed(folder, jars["engine"])]
    (folder / "stubs").mkdir()
    return {"folder": folder, **jars, "files": files}


def inputs(made: dict[str, Any], **changes: Any) -> checks.Inputs:
    values: dict[str, Any] = {
        "framework": made["new"],
        "oldest": made["old"],
        "engine": made["engine"],
        "stubs": made["folder"] / "stubs",
        "java_home": tools.java_home(),
        "package": "org.dgemma.demo",
        "min_sdk": 26,
        "target_sdk": 35,
        "abis": ("arm64-v8a",),
        "asset": "tiny.dgemma",
        "library": made["engine"],
    }
    return checks.Inputs(**{**values, **changes})


@needs_java
@needs_r8
def test_a_dex_file_tells_what_it_defines_and_names(made: dict[str, Any]) -> None:
    ours = made["files"][0]
    declared = ours.classes["org/dgemma/runtime/engine/ExecuTorchEngine"]
    assert declared.parents == ("android/app/Screen",)
    assert ("all", "()I") in declared.methods
    assert ("ai/onnxruntime/Run", ("go", "(I)I")) in ours.methods
    assert "java/util/ArrayList" in ours.types
    damaged = bytearray((made["folder"] / "ours-dex" / "classes.dex").read_bytes())
    damaged[200] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        dex.parse(bytes(damaged))
    with pytest.raises(ValueError, match="magic"):
        dex.parse(b"PK")


@needs_java
@needs_r8
def test_every_reference_is_declared_somewhere(made: dict[str, Any], tmp_path: Path) -> None:
    files = made["files"]
    assert checks.references(files, inputs(made)) == []
    assert checks.references(files, inputs(made, framework=made["old"])) == [
        "no method org/dgemma/runtime/engine/ExecuTorchEngine.glow()V"
    ]
    without_engine = checks.references(files[:1], inputs(made))
    assert without_engine == ["no class ai/onnxruntime/Run"]
    newer = jar(tmp_path, "newer", {"A.java": "class A extends java.util.ArrayList<String> { }"})
    (using,) = [dexed(tmp_path, newer)]
    changed = dex.Dex(
        classes=using.classes,
        types=using.types | {"java/lang/Record"},
        fields=using.fields,
        methods=using.methods | {("java/lang/String", ("isBlank", "()Z"))},
    )
    found = checks.references([changed], inputs(made))
    assert found == ["no class java/lang/Record", "no method java/lang/String.isBlank()Z"]


@needs_java
@needs_r8
def test_what_is_newer_than_the_oldest_android_needs_a_guard(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = classfile.Jar(made["new"]), classfile.Jar(made["old"])
    calls = dex.Dex(
        classes={},
        types=frozenset({"android/app/Screen"}),
        fields=frozenset(),
        methods=frozenset({("android/app/Screen", ("glow", "()V")), ("android/app/Screen", ("show", "()V"))}),
    )
    assert checks.newer_than([calls], new, new) == []
    assert checks.newer_than([calls], old, new) == ["android/app/Screen.glow is newer than minSdk and no guard is known"]
    monkeypatch.setitem(checks.GUARDED, "android/app/Screen.glow", 99)
    assert checks.newer_than([calls], old, new) == []


@needs_java
@needs_r8
def test_methods_of_the_engine_exist_in_its_jar(made: dict[str, Any], tmp_path: Path) -> None:
    assert checks.engine_methods(made["files"], inputs(made)) == []
    text = ENGINE["ai/onnxruntime/Run.java"].replace("int go(int n)", "int go(long n)").replace("return n", "return (int) n")
    other = jar(tmp_path, "other", {"ai/onnxruntime/Run.java": text})
    assert checks.engine_methods(made["files"], inputs(made, engine=other)) == ["no method ai/onnxruntime/Run.go(I)I"]


@needs_java
@needs_r8
def test_the_adapter_is_packed_and_the_declarations_are_not(made: dict[str, Any]) -> None:
    ours, engine = made["files"]
    assert checks.adapter([ours]) == []
    assert checks.adapter([engine]) == ["the adapter's class is missing"]
    stub = classfile.Declared(name="org/pytorch/executorch/Module", parents=(), methods=frozenset(), fields=frozenset())
    packed = dex.Dex(classes={stub.name: stub}, types=frozenset(), methods=frozenset(), fields=frozenset())
    assert checks.adapter([ours, packed]) == [f"{stub.name} is packed: a declaration, not the library"]


@needs_java
def test_java_8_is_known_and_nothing_newer() -> None:
    api = classfile.JavaApi(tools.java_home())
    known = classfile.Known([api])
    assert known.has("java/util/ArrayList", ("stream", "()Ljava/util/stream/Stream;"), "methods")
    assert not known.has("java/lang/String", ("isBlank", "()Z"), "methods")
    assert api.get("java/nio/file/Files")
    for absent in ("java/lang/Record", "java/awt/Point", "java/lang/management/ManagementFactory", "java/net/http/HttpClient"):
        assert api.get(absent) is None
    with pytest.raises(ValueError, match="no class file"):
        classfile.parse(b"\xca\xfe\xba\xbe\0\0\0\x34\0\x05")


def elf(*segments: tuple[int, int]) -> bytes:
    """A 64-bit file with program headers only: type, alignment."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<2HI3QI6H", 3, 183, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    return head + b"".join(struct.pack("<2I6Q", kind, 5, 0, 0, 0, 0, 0, align) for kind, align in segments)


def test_libraries_are_aligned_inside_and_out(tmp_path: Path) -> None:
    assert alignment.elf_alignment(elf((1, 65536), (2, 8), (1, 16384))) == 16384
    with pytest.raises(ValueError, match="no little-endian ELF"):
        alignment.elf_alignment(b"MZ" + bytes(100))
    with pytest.raises(ValueError, match="without segments"):
        alignment.elf_alignment(elf((2, 8)))
    path = tmp_path / "a.apk"

    def problems(data: bytes, entry: zipfile.ZipInfo | None, method: int = zipfile.ZIP_STORED) -> list[str]:
        with zipfile.ZipFile(path, "w") as apk:
            apk.writestr("odd", b"123")
            assert apk.fp is not None
            name = "lib/arm64-v8a/libx.so"
            apk.writestr(entry or alignment.stored(name, alignment.PAGE, apk.fp.tell()), data, method)
        return checks.pages(path)

    assert problems(elf((1, 16384)), None) == []
    assert problems(elf((1, 4096)), None) == ["lib/arm64-v8a/libx.so has segments aligned to 4096"]
    plain = zipfile.ZipInfo("lib/arm64-v8a/libx.so")
    assert "inside a page" in problems(elf((1, 16384)), plain)[0]
    packed = problems(elf((1, 16384)), zipfile.ZipInfo(plain.filename), zipfile.ZIP_DEFLATED)
    assert packed == [f"{plain.filename} is compressed"]
    assert "no little-endian ELF" in problems(b"text", None)[0]


BADGING = """package: name='org.dgemma.demo' versionCode='1' versionName='0.1.0'
sdkVersion:'26'
targetSdkVersion:'35'
launchable-activity: name='org.dgemma.demo.ChatActivity'  label='' icon=''
"""


@needs_java
@pytest.mark.parametrize(
    ("text", "found"),
    [
        (BADGING, []),
        (BADGING.replace("demo' v", "other' v"), ["no package as expected"]),
        (BADGING.replace("'26'", "'21'"), ["no minSdk as expected"]),
        (BADGING.replace("'35'", "'34'"), ["no targetSdk as expected"]),
        (BADGING.replace("launchable", "other"), ["no launcher as expected"]),
        (BADGING + "uses-permission: name='android.permission.INTERNET'\n", ["asks for android.permission.INTERNET"]),
        (BADGING + "uses-permission-sdk-23: name='x.Y'\n", ["asks for x.Y"]),
    ],
)
def test_badging(text: str, found: list[str], tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("new", "old", "engine", "folder"), tmp_path)
    assert checks.badging(text, inputs(nowhere)) == found


def test_the_bundle_in_the_assets_is_whole(tmp_path: Path) -> None:
    path, weights = tmp_path / "a.apk", bytes(range(200))
    files = {"onnx/weights.bin": {"size": 200, "sha256": hashlib.sha256(weights).hexdigest()}}

    def problems(data: bytes | None, method: int = zipfile.ZIP_STORED) -> list[str]:
        with zipfile.ZipFile(path, "w") as apk:
            apk.writestr("assets/tiny.dgemma/manifest.json", json.dumps({"files": files}))
            if data is not None:
                apk.writestr("assets/tiny.dgemma/onnx/weights.bin", data, method)
        return checks.bundle(path, "tiny.dgemma")

    assert problems(weights) == []
    assert problems(None) == ["onnx/weights.bin is missing"]
    assert problems(weights[:-1]) == ["onnx/weights.bin is damaged"]
    assert problems(weights, zipfile.ZIP_DEFLATED) == ["onnx/weights.bin is compressed"]
    assert checks.bundle(path, "other.dgemma") == ["no assets/other.dgemma/manifest.json"]
    assert checks.size(path, path.stat().st_size) == []
    assert checks.size(path, 10) == [f"{path.stat().st_size} bytes, more than 10"]


def test_native_libraries_come_out_of_an_aar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "onnxruntime-android-1.0.aar"
    with zipfile.ZipFile(path, "w") as aar:
        aar.writestr("jni/arm64-v8a/libonnxruntime.so", b"library")
    assert make_apk.native_libraries(path, ["arm64-v8a"]) == {"lib/arm64-v8a/libonnxruntime.so": b"library"}
    with pytest.raises(tools.ApkError, match="no native libraries of x86_64"):
        make_apk.native_libraries(path, ["arm64-v8a", "x86_64"])
    monkeypatch.setenv("MAVEN_REPOSITORY", str(tmp_path))
    assert tools.aar(None) is None
    for version in ("1.9.0", "1.27.0"):
        folder = tmp_path / "com/microsoft/onnxruntime/onnxruntime-android" / version
        folder.mkdir(parents=True)
        shutil.copy(path, folder / f"onnxruntime-android-{version}.aar")
    newest = tools.aar(None)
    assert newest is not None
    assert newest.name == "onnxruntime-android-1.27.0.aar"
    with pytest.raises(tools.ApkError, match="no such file"):
        tools.aar(str(tmp_path / "none.aar"))


@pytest.mark.slow
def test_an_apk_is_built_with_an_aar_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything, with an AAR whose library is a header: what can be tried without a real one."""
    monkeypatch.setattr(sys, "argv", ["make_apk.py", "--out", str(tmp_path / "x.apk"), "--aar", str(tmp_path / "fake.aar")])
    try:
        tools.need()
        options = make_apk.Options(bundle=tmp_path, aar=None, abis=(), out=tmp_path / "y", work=tmp_path, framework=tmp_path)
        make_apk.Build(options)
    except tools.ApkError as error:
        pytest.skip(str(error))
    java = tools.jar("com.microsoft.onnxruntime", "onnxruntime", tools.versions()["onnxruntime"])
    with zipfile.ZipFile(java) as given, zipfile.ZipFile(tmp_path / "classes.jar", "w") as classes:
        for name in given.namelist():
            if name.endswith(".class"):
                classes.writestr(name, given.read(name))
    with zipfile.ZipFile(tmp_path / "fake.aar", "w") as aar:
        aar.write(tmp_path / "classes.jar", "classes.jar")
        for name in ("libonnxruntime.so", "libonnxruntime4j_jni.so"):
            aar.writestr(f"jni/arm64-v8a/{name}", elf((1, 16384)))
    assert make_apk.main() == 0
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["runs_models"]
    assert set(report["sizes"]["native"]["arm64-v8a"]) == {"libonnxruntime.so", "libonnxruntime4j_jni.so"}
    changed = bytearray((tmp_path / "x.apk").read_bytes())
    changed[len(changed) // 3] ^= 1
    (tmp_path / "z.apk").write_bytes(changed)
    assert checks.signature(tmp_path / "z.apk")


def test_tools_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tools.ApkError, match="apt-get install aapt android-framework-res apksigner"):
        tools.need(tmp_path / "framework-res.apk")
