"""`benchmarks/android.py` against a fake adb, and results of the Java protocol as `dgemma bench` reads them."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import write_bundle

from dgemma.benchmarks.bench import compare
from dgemma.benchmarks.studies import android, android_prompts, jvm, tables
from dgemma.core.errors import UsageError

RESULTS = tables.RESULTS
JVM = RESULTS / "tiny-jvm-bench.json"

ADB = '''#!{python}
"""An adb whose phone is a folder: what it was told goes into log.txt; `am start` leaves what answer.json says."""
import json, re, shutil, subprocess, sys
from pathlib import Path

here = Path({here!r})
phone = here / "phone"
arguments = sys.argv[1:]
with (here / "log.txt").open("a") as log:
    log.write(json.dumps(arguments) + "\\n")
answer = json.loads((here / "answer.json").read_text())
if arguments == ["devices"]:
    print("List of devices attached")
    print("\\n".join(f"{{name}}\\t{{state}}" for name, state in answer["devices"].items()))
    sys.exit()
assert arguments[:1] == ["-s"]
command, words = arguments[2], arguments[3:]
if command == "push":
    shutil.copytree(words[0], f"{{phone}}{{words[1]}}")
elif words[0].startswith("am start"):
    if answer["start"]:
        print(answer["start"])
    files = Path(f"{{phone}}/sdcard/Android/data/org.dgemma.demo/files")
    for name, text in answer["files"].items():
        (files / name).write_text(text)
else:
    text = words[0].replace("/sdcard", f"{{phone}}/sdcard")
    sys.exit(subprocess.run(["sh", "-c", text]).returncode)
'''


class Adb:
    """The fake, and what it is to answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        script = folder / "bin" / "adb"
        script.write_text(ADB.format(python=sys.executable, here=str(folder)))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.answer: dict[str, Any] = {"devices": {"one": "device"}, "start": "", "files": {}}
        self.tell()

    def tell(self, **changes: Any) -> None:
        self.answer |= changes
        (self.folder / "answer.json").write_text(json.dumps(self.answer))

    def log(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "log.txt").read_text().splitlines()]


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Adb:
    fake = Adb(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(android, "POLL", 0.01)
    return fake


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "toy.dgemma"
    write_bundle(path)
    return path


def of_a_phone() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(JVM.read_text(encoding="utf-8"))
    return {**result, "device": {"manufacturer": "Acme", "model": "Brick 9 Pro", "thermal_status": "none"}}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["android", *map(str, arguments)])
    return android.main()


def test_a_bundle_is_pushed_once_and_results_are_appended(
    adb: Adb, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adb.tell(files={"bench.json": json.dumps(of_a_phone())})
    out = tmp_path / "results.json"
    for _ in range(2):
        assert run(monkeypatch, bundle, "--seconds", 5, "--threads", 4, "--out", out) == 0
    kept = json.loads(out.read_text())
    assert [one["device"]["model"] for one in kept] == ["Brick 9 Pro"] * 2
    commands = [words[2] for words in adb.log() if words[0] == "-s"]
    assert commands.count("push") == 1
    starts = [words[3] for words in adb.log() if words[-1].startswith("am start")]
    activity = "-a org.dgemma.demo.BENCHMARK -n org.dgemma.demo/.BenchmarkActivity"
    assert starts[0].endswith(f"{activity} --es bundle toy.dgemma --ei seconds 5 --ei threads 4")
    pushed = tmp_path / "phone/sdcard/Android/data/org.dgemma.demo/files/bundles"
    assert [path.name for path in pushed.iterdir()] == ["toy.dgemma"]
    assert android.place(bundle, kept[0]).name == "android-brick-9-pro-toy.json"


def test_a_stale_result_is_not_taken(adb: Adb, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(android, "LOADING", 0.0)
    files = tmp_path / "phone/sdcard/Android/data/org.dgemma.demo/files"
    files.mkdir(parents=True)
    (files / "bench.json").write_text(json.dumps(of_a_phone()))
    with pytest.raises(UsageError, match="no result after 1 s"):
        run(monkeypatch, bundle, "--seconds", 1, "--out", tmp_path / "results.json")


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"devices": {}}, "none connected"),
        ({"devices": {"one": "unauthorized"}}, "one is unauthorized"),
        ({"devices": {"one": "device", "two": "device"}}, "choose one with --serial"),
        ({"start": "Error: Activity class {org.dgemma.demo/x} does not exist."}, "install it"),
        ({"files": {"bench.json.error": "bundle broken; choose another\n"}}, "the app says: bundle broken"),
        ({"files": {"bench.json": "{}"}}, "not a result of the benchmark"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    adb: Adb, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], phrase: str
) -> None:
    adb.tell(**changes)
    with pytest.raises(UsageError, match=phrase) as caught:
        run(monkeypatch, bundle, "--seconds", 1, "--out", tmp_path / "results.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results.json").exists()


def test_without_adb_and_with_an_unknown_serial(
    adb: Adb, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="adb sees one"):
        run(monkeypatch, bundle, "--serial", "two")
    with pytest.raises(UsageError, match="--seconds 0"):
        run(monkeypatch, bundle, "--seconds", 0)
    with pytest.raises(UsageError, match="through a shell"):
        run(monkeypatch, tmp_path / "a;b.dgemma")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="adb is not installed"):
        run(monkeypatch, bundle)


def test_a_result_that_lacks_something_is_refused() -> None:
    good = of_a_phone()
    android.validate(json.dumps(good))
    for key in ("device", "of", "noise", "bundle", "ratios", "growth", "benchmark"):
        with pytest.raises(UsageError):
            android.validate(json.dumps({name: value for name, value in good.items() if name != key}))
    with pytest.raises(UsageError):
        android.validate(json.dumps(good)[:-10])


def test_results_are_appended_to_a_list_only(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text('{"benchmark": "bench"}')
    with pytest.raises(UsageError, match="not a list of results"):
        android.append(path, {})
    assert path.read_text() == '{"benchmark": "bench"}'


def test_a_result_of_the_jvm_can_be_compared_and_tabulated() -> None:
    """The committed file is what the JVM tool printed."""
    here, there = (compare.read(RESULTS / name) for name in ("bench-tiny-w8-onnx.json", JVM.name))
    compare.check_same(here, there["of"], JVM)
    rows = {row["ratio"]: row for row in compare.compare(here, there)}
    judged = [name for name, row in rows.items() if "change" in row]
    assert len(judged) == 2 + 2 * len(here["groups"])
    assert set(there["ratios"]) <= set(rows) == set(here["ratios"])
    assert "java" in tables.provenance(there)
    for key in ("growth", "groups", "prefill", "load", "outputs", "steps_per_canvas", "noise"):
        assert _keys(there[key]) <= _keys(here[key]), key
    with pytest.raises(UsageError, match="recipe"):
        compare.check_same(here, {**there["of"], "recipe": "fp32"}, JVM)


def _keys(value: Any) -> set[str]:
    """Names of all fields, through lists and objects."""
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set()


def test_prompts_of_the_library_are_those_of_the_protocol() -> None:
    assert android_prompts.RESOURCE.read_text(encoding="utf-8") == android_prompts.text()


def test_both_sides_are_compared_group_by_group() -> None:
    def side(rate: float) -> dict[str, Any]:
        one: dict[str, Any] = {"tokens_per_s": {"median": rate, "q3": 1.1 * rate}, "step_ms": {"least": 1e3 / rate}}
        one |= {"tokens_per_forward": 3.0, "host_share": {"median": 0.1}}
        return {"groups": {"short": {"diffusion": one, "autoregressive": one}}}

    found = jvm.compare([(side(100.0), side(90.0)), (side(200.0), side(210.0))])["short"]["diffusion"]
    assert found["java_over_python"]["median"] == pytest.approx((0.9 + 1.05) / 2)
    assert found["best"] == pytest.approx(1.05)
    assert found["fastest_step_ms"] == pytest.approx([5.0, 1e3 / 210])
