"""Which Debian packages the tests of Java and of Android lack here. In CI nothing may be missing, so nothing is left out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
COMMANDS = {"openjdk-17-jdk-headless": "javac", "maven": "mvn", "aapt": "aapt2"}
FILES = {"android-framework-res": FRAMEWORK}
JAVA = ("openjdk-17-jdk-headless", "maven")
APP = (*JAVA, "aapt", "android-framework-res")


def missing(packages: Sequence[str]) -> list[str]:
    """Those of the packages whose command or file is not there."""
    return [name for name in packages if not (FILES[name].is_file() if name in FILES else shutil.which(COMMANDS[name]))]


def install(names: Sequence[str]) -> str:
    """The cure: "install a, b and c"."""
    return "install " + " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def in_ci() -> bool:
    """Whether a missing tool is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true"}
