"""The Gradle project, which cannot run here, says what the Maven build, the manifest and the APK script say."""

from __future__ import annotations

import re
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2] / "android_demo"
sys.path.insert(0, str(ROOT / "apk"))

import make_apk  # noqa: E402
import tools  # noqa: E402

ANDROID = "{http://schemas.android.com/apk/res/android}"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def setting(text: str, name: str) -> str:
    """The value of `name = value` or `name = "value"`; fails when there is not exactly one."""
    (found,) = re.findall(rf"^\s*{name} = \"?([^\"\n]+?)\"?$", text, re.M)
    return str(found)


def manifest_facts(path: Path) -> dict[str, str]:
    root = ElementTree.parse(path).getroot()
    sdk = root.find("uses-sdk")
    assert sdk is not None
    return {
        "namespace": root.attrib["package"],
        "applicationId": root.attrib["package"],
        "versionCode": root.attrib[f"{ANDROID}versionCode"],
        "versionName": root.attrib[f"{ANDROID}versionName"],
        "minSdk": sdk.attrib[f"{ANDROID}minSdkVersion"],
        "targetSdk": sdk.attrib[f"{ANDROID}targetSdkVersion"],
    }


def test_modules_are_those_of_maven_and_have_sources() -> None:
    (line,) = re.findall(r"^include\((.+)\)$", read("settings.gradle.kts"), re.M)
    modules = re.findall(r'":([\w-]+)"', line)
    maven = re.findall(r"<module>([\w-]+)</module>", read("pom.xml"))
    assert set(modules) == set(maven) - {"jvm"}
    for module in modules:
        assert (ROOT / module / "build.gradle.kts").is_file()
        assert list((ROOT / module / "src/main/java").rglob("*.java")), f"{module} has no sources where Gradle looks for them"
        assert "srcDir(" not in read(f"{module}/build.gradle.kts").replace("assets.srcDir(", ""), "sources are shared by layout"


def test_versions_are_those_of_the_poms() -> None:
    catalog = tomllib.loads(read("gradle/libs.versions.toml"))
    poms = tools.versions()
    shared = set(catalog["versions"]) & set(poms)
    assert shared == {"onnxruntime", "jspecify"}
    assert {name: catalog["versions"][name] for name in shared} == {name: poms[name] for name in shared}
    guide = read("README.md")
    for name in ("onnxruntime", "onnxruntime-android"):
        library = catalog["libraries"][name]["module"]
        assert f"{library}:{catalog['versions'][name]}" in guide


def test_every_alias_is_in_the_catalog_and_used() -> None:
    catalog = tomllib.loads(read("gradle/libs.versions.toml"))
    known = {f"libs.{name.replace('-', '.')}" for name in catalog["libraries"]}
    known |= {f"libs.plugins.{name.replace('-', '.')}" for name in catalog["plugins"]}
    scripts = [ROOT / "build.gradle.kts", *ROOT.glob("*/build.gradle.kts")]
    used = {alias for path in scripts for alias in re.findall(r"\blibs(?:\.\w+)+", path.read_text(encoding="utf-8"))}
    assert used == known
    for entry in [*catalog["libraries"].values(), *catalog["plugins"].values()]:
        assert entry["version"]["ref"] in catalog["versions"]


def test_ids_and_levels_are_those_of_the_manifest_and_of_the_apk() -> None:
    script, facts = read("app/build.gradle.kts"), manifest_facts(ROOT / "app/src/main/AndroidManifest.xml")
    assert {name: setting(script, name) for name in facts} == facts
    assert (facts["namespace"], int(facts["minSdk"]), int(facts["targetSdk"])) == (
        make_apk.PACKAGE,
        make_apk.MIN_SDK,
        make_apk.TARGET_SDK,
    )
    assert setting(script, "compileSdk") == facts["targetSdk"]
    version = ElementTree.parse(ROOT / "pom.xml").getroot().findtext("{http://maven.apache.org/POM/4.0.0}version")
    assert facts["versionName"] == version
    assert f'layout.buildDirectory.dir("bundle/{make_apk.ASSET}")' in script


@pytest.mark.parametrize("text", ["minSdk = 26\nminSdk = 27\n", "maxSdk = 26\n"])
def test_a_setting_that_is_ambiguous_or_absent_fails(text: str) -> None:
    with pytest.raises(ValueError, match="unpack"):
        setting(text, "minSdk")


def test_module_poms_have_the_parents_version() -> None:
    space: dict[str, Any] = {"m": "http://maven.apache.org/POM/4.0.0"}
    version = ElementTree.parse(ROOT / "pom.xml").getroot().findtext("m:version", None, space)
    poms = list(ROOT.glob("*/pom.xml"))
    assert len(poms) == 5
    for path in poms:
        assert ElementTree.parse(path).getroot().findtext("m:parent/m:version", None, space) == version, path.parent.name
        plain = re.findall(r"<version>(?!\$)([^<]+)</version>", path.read_text(encoding="utf-8"))
        assert plain == [version], f"{path.parent.name}: versions live in the parent"
