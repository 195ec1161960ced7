"""The app's benchmark on a phone: pushes a bundle with adb, runs it without a hand on the screen, pulls and keeps the result.

    python -m dgemma.benchmarks.studies.android BUNDLE [--seconds 60] [--serial S] [--threads N] [--engine E] [--out FILE.json]

The app has to be installed (`adb install build/apk/dgemma-demo.apk`, or from Android Studio). The result has the keys of
`dgemma bench`, so that `dgemma bench --compare` reads it, and `device`. Without --out it goes to
benchmarks/results/android-MODEL-BUNDLE.json: a JSON list, the newest last.

Exit status 0 = measured and kept, 2 = no adb, no phone, several phones, or the app's own error, in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.bench import compare
from dgemma.core.engines import ENGINES
from dgemma.core.errors import UsageError
from dgemma.core.manifest import read_manifest

PACKAGE, ACTIVITY, ACTION = "org.dgemma.demo", ".BenchmarkActivity", "org.dgemma.demo.BENCHMARK"
FILES = f"/sdcard/Android/data/{PACKAGE}/files"
RESULTS = Path(__file__).resolve().parents[1] / "results"
LOADING, POLL = 600.0, 2.0  # seconds: what loading may take beyond the time for measuring; between two looks
Json = dict[str, Any]


class Phone:
    """One device behind adb; every command that fails raises UsageError."""

    def __init__(self, adb: str, serial: str) -> None:
        self._adb, self.serial = adb, serial

    @classmethod
    def find(cls, serial: str | None) -> Phone:
        adb = shutil.which("adb")
        if adb is None:
            raise UsageError("adb is not installed; get Android's platform tools, or `apt-get install adb`")
        lines = subprocess.run([adb, "devices"], capture_output=True, text=True).stdout.splitlines()[1:]
        states = {fields[0]: fields[1] for line in lines if len(fields := line.split()) >= 2}
        if serial is not None and serial not in states:
            raise UsageError(f"--serial {serial}: adb sees {', '.join(states) or 'no device'}; connect it, or name another")
        ready = [name for name, state in states.items() if state == "device" and serial in (None, name)]
        if not ready:
            waiting = ", ".join(f"{name} is {state}" for name, state in states.items()) or "none connected"
            raise UsageError(f"no phone is ready ({waiting}); connect one and allow USB debugging")
        if len(ready) > 1:
            raise UsageError(f"several phones are connected ({', '.join(ready)}); choose one with --serial")
        return cls(adb, ready[0])

    def run(self, *arguments: str) -> str:
        done = subprocess.run([self._adb, "-s", self.serial, *arguments], capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise UsageError(f"adb {arguments[0]} failed: {said}")
        return done.stdout

    def shell(self, command: str) -> str:
        return self.run("shell", command)

    def read(self, path: str) -> str | None:
        """The text of a file; None while there is none."""
        found = self.shell(f"if [ -f {path} ]; then cat {path}; else echo; fi")
        return found if found.strip() else None


def push(phone: Phone, bundle: Path, name: str) -> None:
    """Into the app's own folder, under a name that no run sees until all of it is there; skipped when it is there already."""
    _, digest = read_manifest(bundle)
    target = f"{FILES}/bundles/{name}"
    there = phone.read(f"{target}/manifest.json")
    if there is not None and digest in there:
        return
    half = f"{FILES}/bundles/.{name}.pushed"
    phone.shell(f"rm -rf {half} {target} && mkdir -p {FILES}/bundles")
    phone.run("push", str(bundle), half)
    phone.shell(f"mv {half} {target}")


def measure(phone: Phone, name: str, extras: Sequence[tuple[str, str, str]], seconds: float, poll: float = POLL) -> Json:
    """Start the app's benchmark and wait for its result. Raises UsageError with the app's own line, or when time is up."""
    result, error = f"{FILES}/bench.json", f"{FILES}/bench.json.error"
    phone.shell(f"rm -f {result} {error}")
    words = " ".join(f"{kind} {key} {value}" for kind, key, value in (("--es", "bundle", name), *extras))
    said = phone.shell(f"am start -W -a {ACTION} -n {PACKAGE}/{ACTIVITY} {words}")
    if "Error" in said:
        line = next(line for line in said.splitlines() if "Error" in line)
        raise UsageError(f"the app does not start ({line.strip()}); install it: adb install build/apk/dgemma-demo.apk")
    end = time.monotonic() + seconds + LOADING
    while time.monotonic() < end:
        if (text := phone.read(error)) is not None:
            raise UsageError(f"the app says: {text.strip().splitlines()[0]}")
        if (text := phone.read(result)) is not None:
            return validate(text)
        time.sleep(poll)
    raise UsageError(f"no result after {seconds + LOADING:.0f} s; look at the phone, or give more --seconds")


def validate(text: str) -> Json:
    """A result that `dgemma bench --compare` takes, of a device; raises UsageError."""
    try:
        found = json.loads(text)
        assert found["benchmark"] == "bench"
        assert set(compare.SAME) <= set(found["of"])
        assert found["noise"]["doubt"] >= 0
        assert isinstance(found["bundle"]["digest"], str)
        assert all(entry["value"] > 0 for entry in found["ratios"].values())
        assert found["growth"][0]["step_ms"]["median"] > 0
        assert isinstance(found["device"], dict)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, RecursionError):
        raise UsageError("bench.json of the phone is not a result of the benchmark; update the app") from None
    result: Json = found
    return result


def append(path: Path, result: Json) -> None:
    """To a JSON list, which is made when there is none."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        assert isinstance(kept, list)
    except (OSError, ValueError, AssertionError):
        raise UsageError(f"--out {path}: is not a list of results; choose another place") from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps([*kept, result], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}); choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)


def place(bundle: Path, result: Json) -> Path:
    """Where a result goes: by the phone's model and the bundle's name."""
    words = f"{result['device'].get('model', 'phone')}-{bundle.name.removesuffix('.dgemma')}"
    return RESULTS / f"android-{re.sub('[^a-z0-9]+', '-', words.lower()).strip('-')}.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.android", description="Benchmark a bundle on a phone."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=int, default=60, help="time for measuring, loading aside")
    parser.add_argument("--serial", help="which phone, as `adb devices` lists them")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--out", type=Path, help="a JSON list to append to")
    given = parser.parse_args()
    report.check_out(given.out)
    if not 1 <= given.seconds <= 86_400:
        raise UsageError(f"--seconds {given.seconds} must be between 1 and 86,400")
    if given.threads is not None and not 1 <= given.threads <= 1024:
        raise UsageError(f"--threads {given.threads} must be between 1 and 1024")
    name = given.bundle.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"{given.bundle}: its name goes through a shell; use letters, digits, '.', '_' and '-'")
    phone = Phone.find(given.serial)
    push(phone, given.bundle, name)
    extras = [("--ei", "seconds", str(given.seconds))]
    extras += [("--ei", "threads", str(given.threads))] if given.threads else []
    extras += [("--es", "engine", given.engine)] if given.engine else []
    result = measure(phone, name, extras, given.seconds)
    path = given.out or place(given.bundle.resolve(), result)
    append(path, result)
    print(f"kept in {path}")
    return 0


if __name__ == "__main__":
    report.main(main)
