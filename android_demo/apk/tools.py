"""Command-line tools and jars that make and check an APK: where they are, or what to install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

ANDROID_DEMO = Path(__file__).resolve().parents[1]
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
PACKAGES = {
    "aapt2": "aapt",
    "zipalign": "zipalign",
    "apksigner": "apksigner",
    "javac": "openjdk-17-jdk-headless",
    "java": "openjdk-17-jdk-headless",
    "keytool": "openjdk-17-jdk-headless",
    "mvn": "maven",
}
_POM = "{http://maven.apache.org/POM/4.0.0}"


class ApkError(Exception):
    """One line: what is wrong, and the cure."""


def need(framework: Path = FRAMEWORK) -> None:
    """Raises ApkError with the command that installs what is missing."""
    missing = {package for tool, package in PACKAGES.items() if not shutil.which(tool)}
    if not framework.is_file():
        missing.add("android-framework-res")
    if missing:
        raise ApkError(f"tools are missing; install them: apt-get install {' '.join(sorted(missing))}")


def run(command: Sequence[str | Path]) -> str:
    """Standard output; raises ApkError with the tool's lines that say `error`, else with its last ones."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()][:3] or said[-5:]
        raise ApkError(f"{Path(command[0]).name} failed: {' | '.join(errors) or 'without a word'}")
    return done.stdout


def java_home() -> Path:
    return Path(shutil.which("javac") or "javac").resolve().parents[1]


def versions() -> dict[str, str]:
    """The properties of the parent pom that name versions, without `.version`."""
    properties = ElementTree.parse(ANDROID_DEMO / "pom.xml").getroot().find(f"{_POM}properties")
    assert properties is not None
    found = {one.tag.removeprefix(_POM): one.text or "" for one in properties}
    return {name.removesuffix(".version"): text for name, text in found.items() if name.endswith(".version")}


def repository() -> Path:
    """The local Maven repository."""
    return Path(os.environ.get("MAVEN_REPOSITORY") or Path.home() / ".m2" / "repository")


def jar(group: str, name: str, version: str) -> Path:
    """A jar of the local Maven repository, which Maven fills when it is not there; raises ApkError."""
    path = repository() / group.replace(".", "/") / name / version / f"{name}-{version}.jar"
    if not path.is_file():
        plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{versions()['maven-dependency-plugin']}:get"
        run(
            [
                "mvn",
                "-q",
                "-B",
                f"-Dmaven.repo.local={repository()}",
                plugin,
                f"-Dartifact={group}:{name}:{version}",
                "-Dtransitive=false",
            ]
        )
    return path


def aar(given: str | None) -> Path | None:
    """The ONNX Runtime AAR: as given, else the newest of the local Maven repository, else None; raises ApkError."""
    if given:
        if not Path(given).is_file():
            raise ApkError(f"ONNXRUNTIME_AAR {given}: no such file; give the path of an onnxruntime-android AAR")
        return Path(given)
    found = (repository() / "com/microsoft/onnxruntime/onnxruntime-android").glob("*/*.aar")
    return max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)], default=None)
