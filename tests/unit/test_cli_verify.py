"""`dgemma verify`: exit status, the outcome that is kept, over toy and micro bundles; and every refusal is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import micro
import micro_bundle
import pytest
from cli_checks import ANSWER
from fake_bundle import write_bundle

from dgemma.cli import dispatch
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
from dgemma.core.manifest import MANIFEST, Manifest, list_files, read_manifest, write_manifest
from dgemma.verify import golden, outcome


@pytest.fixture
def bundle(toy: dict[str, Any], tmp_path: Path) -> Path:
    """A toy bundle with golden trajectories."""
    path = write_bundle(tmp_path / "toy.dgemma")
    golden.write(path, None, ["hello", "you"])
    return relist(path)


def relist(path: Path, **changes: Any) -> Path:
    manifest = Manifest.from_dict(json.loads((path / MANIFEST).read_text()))
    write_manifest(path, replace(manifest, files=list_files(path), **changes))
    return path


@pytest.fixture
def micro_copy(tmp_path: Path) -> Iterator[Path]:
    """The float micro bundle, to keep an outcome beside."""
    yield Path(shutil.copytree(micro_bundle.bundle("onnx"), tmp_path / "micro.dgemma"))


def refused(capsys: pytest.CaptureFixture[str], args: list[str], *says: str, after: str = "") -> None:
    """One line; `after` a first one that starts so."""
    capsys.readouterr()
    assert dispatch(["verify", *args]) == 2
    out, err = capsys.readouterr()
    if after:
        assert err.startswith(after)
        err = err.split("\n", 1)[1]
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (out, err)
    for text in says:
        assert text in err


def test_a_bundle_that_replays_passes(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["verify", str(bundle)]) == 0
    out, err = capsys.readouterr()
    assert "onnx: 3 of 3 golden trajectories equal to those recorded" in out
    assert "onnx: 3 of 3 golden trajectories of the fused graph equal" in out
    assert "not run: torch (needs --checkpoint)" in out
    assert "PASSED  toy.dgemma: 1 backend, 3 golden prompts, all as recorded: onnx" in out
    assert "generations, onnx: 3/3" in err.splitlines() and err.splitlines()[-1] == "with options, onnx: 4/4"
    assert "onnx: 4 generations with options; the options change" in out
    values, problem = outcome.read(bundle)
    _, digest = read_manifest(bundle)
    assert problem is None and values is not None
    assert values["digest"] == digest and values["passed"] and set(values["ladder"]) == {"onnx"}
    assert {"date", "tools", "machine"} <= set(values["ladder"]["onnx"])


def test_generations_with_options_can_be_more_or_none(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["verify", str(bundle), "--options", "0"]) == 0
    assert "with options" not in capsys.readouterr().out
    assert dispatch(["verify", str(bundle), "--options", "7"]) == 0
    assert "onnx: 7 generations with options" in capsys.readouterr().out
    refused(capsys, [str(bundle), "--options", "-1"], "--options -1", "must be 0 or more")


def test_other_tokens_are_a_miss_that_is_remembered_and_shown(
    bundle: Path, toy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    toy["answer"] = [201, *ANSWER[1:]]
    assert dispatch(["verify", str(bundle)]) == 1
    out, _ = capsys.readouterr()
    assert "0 of 3 golden trajectories equal" in out
    where = "prompt 1 differs from step 1 on (canvas 1, position 0): another likeliest token, by a margin that"
    assert where in out and out.count(" is not known: NOT ALLOWED\n") == 3
    assert "MISSED  toy.dgemma: onnx: golden differences that are not near-ties 3 (limit 0)" in out
    assert "run 0 canvas 0 step 6: recorded: argmax (loop) is the first to differ" in out
    assert dispatch(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "verify        FAILED" in shown and "are not near-ties: 3 (limit 0)  MISSED" in shown


def test_json_is_what_the_file_says(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["verify", str(bundle), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == json.loads(outcome.place(bundle).read_text())


def test_inspect_says_what_an_outcome_is_worth(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown() -> str:
        assert dispatch(["inspect", str(bundle)]) == 0
        return capsys.readouterr().out

    assert "verify        none" in shown()
    assert dispatch(["verify", str(bundle)]) == 0
    capsys.readouterr()
    assert "verify        passed" in shown()
    relist(bundle, tools={"dgemma": "another export"})
    assert "is for another bundle" in shown() and "passed" not in shown()
    assert dispatch(["inspect", str(bundle), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["verify"] is None and "is for digest" in values["verify_problem"]
    outcome.place(bundle).write_bytes(b"\x00")
    assert "is damaged" in shown()
    assert dispatch(["run", str(bundle), "-p", "x"]) == 0  # a damaged outcome hinders nobody
    capsys.readouterr()
    assert dispatch(["verify", str(bundle)]) == 0 and outcome.read(bundle)[1] is None


def test_an_outcome_that_cannot_be_kept_is_still_given(
    bundle: Path, toy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome.place(bundle).mkdir()
    assert dispatch(["verify", str(bundle)]) == 2
    out, err = capsys.readouterr()
    assert "PASSED" in out
    assert err.splitlines()[-1].startswith("error: ") and "verify.json: cannot be written" in err
    toy["answer"] = [7]
    assert dispatch(["verify", str(bundle)]) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--reference", "tpu"], ("--reference tpu", "--checkpoint")),
        (["--golden-only", "--count", "3"], ("--count", "--checkpoint")),
        (["--write-golden", "g.npz"], ("--write-golden", "--checkpoint")),
        (["--checkpoint", "{tmp}", "--golden-only", "--count", "3"], ("--count", "--golden-only")),
        (["--reference", "jax"], ("--reference 'jax'", "choose torch or tpu")),
        (["--count", "3"], ("--count", "--checkpoint")),
        (["--prompts", "x.jsonl"], ("--prompts", "--checkpoint")),
        (["--compare", "verify.json"], ("--compare", "--report")),
        (["--report", "no/such/folder"], ("--report", "does not exist")),
        (["--threads", "0"], ("threads",)),
        (["--checkpoint", "{tmp}/none"], ("no such folder",)),
    ],
)
def test_options_that_cannot_be_meant(
    bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, args: list[str], says: tuple[str, ...]
) -> None:
    refused(capsys, [str(bundle), *(a.replace("{tmp}", str(tmp_path)) for a in args)], *says)
    assert not outcome.place(bundle).exists()


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let these look as if they were not installed."""
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, package=None: None if name in packages else real(name, package))


def test_golden_only_is_what_happens_without_a_checkpoint(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["verify", str(bundle), "--golden-only"]) == 0
    assert "PASSED  toy.dgemma: 1 backend, 3 golden prompts, all as recorded: onnx" in capsys.readouterr().out


def test_golden_only_without_golden_trajectories_compares_nothing(micro_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (micro_copy / golden.FILE).unlink()
    args = [str(relist(micro_copy)), "--checkpoint", str(micro_bundle.checkpoint()), "--golden-only"]
    refused(capsys, args, "has no golden.npz", "--golden-only")
    assert not outcome.place(micro_copy).exists()


@pytest.mark.parametrize("more", [[], ["--golden-only"]])
def test_a_checkpoint_that_nothing_can_run_is_refused(
    more: list[str], micro_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [str(micro_copy), "--checkpoint", str(micro_bundle.checkpoint()), *more]
    hide(monkeypatch, "torch", "jax")
    refused(capsys, args, "--checkpoint needs package 'torch' or 'jax'", pip_install("export"))
    assert not outcome.place(micro_copy).exists()


def test_random_weights_need_torch(
    micro_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    relist(micro_copy, provenance={"shape_of": "2b", "random_weights": 5})
    hide(monkeypatch, "torch")
    args = [str(micro_copy), "--checkpoint", "2b", "--golden-only"]
    refused(capsys, args, "random weights need package 'torch'", pip_install("export"))


def test_the_gate_needs_torch(micro_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    args = [str(micro_copy), "--checkpoint", str(micro_bundle.checkpoint())]
    hide(monkeypatch, "torch")
    refused(capsys, args, "the gate needs package 'torch'", pip_install("export"), "--golden-only or --reference tpu")
    assert not outcome.place(micro_copy).exists()


def test_random_weights_have_no_gate_in_jax(micro_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relist(micro_copy, provenance={"shape_of": "2b", "random_weights": 5})
    args = [str(micro_copy), "--checkpoint", "2b", "--reference", "tpu"]
    refused(capsys, args, "--reference tpu: only torch can make random weights")


def test_one_float_backend_is_enough(
    micro_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["verify", str(micro_copy), "--checkpoint", str(micro_bundle.checkpoint()), "--golden-only"]
    hide(monkeypatch, "jax")
    assert dispatch(args) == 0
    out = capsys.readouterr().out
    assert "PASSED  micro.dgemma: 2 backends, 4 golden prompts" in out and "jax is not installed" in out


def test_bundles_without_golden_trajectories(
    toy: dict[str, Any], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, [str(tmp_path / "none")], "no such folder")
    refused(capsys, [str(write_bundle(tmp_path / "bare"))], "has no golden.npz", "--checkpoint")
    for content in (b"PK", b"", b"\x93NUMPY"):
        (bundle / golden.FILE).write_bytes(content)
        refused(capsys, [str(relist(bundle))], "golden.npz", "export the bundle again")


def test_a_float_artifact_passes_against_its_checkpoint(micro_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["verify", str(micro_copy), "--checkpoint", str(micro_bundle.checkpoint()), "--count", "3", "--threads", "1"]
    assert dispatch(args) == 0
    out, _ = capsys.readouterr()
    assert "trajectories equal  3 of 3" in out and "no answers to match" in out and "PASSED" in out
    values, _ = outcome.read(micro_copy)
    assert values is not None
    found = values["float"]["onnx"]
    assert found["checkpoint"]["same"] and set(found["checkpoint"]["files"]) >= {"config.json", "model.safetensors"}
    assert found["free_running"]["exact_match"] is None and found["teacher_forced"]["kl"]["max"] < 1e-7
    backends = ["reference bfloat16", "reference float32", "torch", "onnx"]
    assert list(values["ladder"]) == backends and "PASSED  micro.dgemma: 4 backends, 4 golden prompts" in out
    assert dispatch(["verify", str(micro_copy)]) == 0  # the ladder is replaced, the comparison is kept
    both, _ = outcome.read(micro_copy)
    assert both is not None and both["float"] == values["float"] and list(both["ladder"]) == ["onnx"]


def test_another_checkpoint_is_compared_and_said_so(
    micro_copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = micro.save(tmp_path / "other", seed=1)
    args = [str(micro_copy), "--checkpoint", str(other), "--count", "4", "--options", "0", "--threads", "1"]
    assert dispatch(["verify", *args]) == 1
    out, err = capsys.readouterr()
    assert err.count("warning: ") == 1 and "model.safetensors is not the file that the bundle was made from" in err
    assert "other is NOT the checkpoint that this bundle was made from" in out
    assert "MISSED  micro.dgemma: onnx against torch" in out and "embedded (encode) is the first to differ" in out
    values, _ = outcome.read(micro_copy)
    assert values is not None
    found = values["float"]["onnx"]
    assert found["other_checkpoint"] and not found["checkpoint"]["same"]
    assert found["free_running"]["equal_trajectories"] == 0 and found["teacher_forced"]["kl"]["mean"] > 0.1
    assert dispatch(["inspect", str(micro_copy)]) == 0
    assert "not the bundle's checkpoint" in capsys.readouterr().out


def test_what_is_asked_of_many_prompts_is_checked(micro_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [str(micro_copy), "--checkpoint", str(micro_bundle.checkpoint())]
    refused(capsys, [*args, "--count", "0"], "--count 0")
    refused(capsys, [*args, "--prompts", "none.jsonl"], "none.jsonl", "cannot be read")


def test_the_reference_writes_golden_trajectories_that_agree(
    micro_copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import numpy as np

    args = ["verify", str(micro_copy), "--checkpoint", str(micro_bundle.checkpoint())]
    assert dispatch([*args, "--write-golden", str(tmp_path / "golden.npz")]) == 0
    out = capsys.readouterr().out
    assert "4 runs" in out and "agrees with 4 trajectories of the float model" in out
    with np.load(tmp_path / "golden.npz") as archive:
        made = json.loads(archive["made"].tobytes())
        assert made["backend"] == "reference float32" and made["canvas_length"] == micro.N and "jax" in made["versions"]
        assert archive["seeds"].tolist() == [golden.SEED + i for i in range(4)]
        assert archive["reference_3_argmax"].shape[1] == micro.N
    refused(capsys, [*args[1:], "--write-golden", str(tmp_path / "no" / "golden.npz")], "--write-golden", "does not exist")


def test_many_prompts_against_the_reference(micro_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["verify", str(micro_copy), "--checkpoint", str(micro_bundle.checkpoint()), "--reference", "tpu", "--count", "2"]
    dispatch([*args, "--options", "0", "--threads", "1"])  # bfloat16 of random weights may miss the gate of a trained model
    assert "against float micro in tpu, 2 prompts" in capsys.readouterr().out
    values, _ = outcome.read(micro_copy)
    assert values is not None and values["float"]["onnx"]["reference"] == "tpu"
    assert 1e-8 < values["float"]["onnx"]["teacher_forced"]["kl"]["mean"] < 0.1


def test_checkpoints_that_cannot_be_compared(micro_copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    quantized = Path(shutil.copytree(micro_bundle.checkpoint(), tmp_path / "quantized"))
    (quantized / "quantization.json").write_text("{}")
    refused(capsys, [str(micro_copy), "--checkpoint", str(quantized), "--count", "1"], "is a quantized checkpoint")
    shape = micro.save(tmp_path / "shape", replace(micro.CONFIG, num_kv_heads=1))
    refused(capsys, [str(micro_copy), "--checkpoint", str(shape)], "kv heads", "bundle's shape")
    missing = Path(shutil.copytree(micro_bundle.checkpoint(), tmp_path / "missing"))
    (missing / "model.safetensors").unlink()
    wanted = "has neither model.safetensors nor model.safetensors.index.json"
    refused(capsys, [str(micro_copy), "--checkpoint", str(missing)], wanted, after="warning: ")


def test_a_miss_against_float_names_its_figure(
    micro_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgemma.verify import free_running

    figures = free_running.figures

    def slower(*args: Any) -> dict[str, Any]:
        found = figures(*args)
        return {**found, "step_inflation": {"value": 1.3, "low": 1.2, "high": 1.4}}

    monkeypatch.setattr(free_running, "figures", slower)
    args = ["verify", str(micro_copy), "--checkpoint", str(micro_bundle.checkpoint()), "--count", "1", "--threads", "1"]
    assert dispatch([*args, "--options", "0"]) == 1
    assert "MISSED  micro.dgemma on onnx: step inflation 1.3 (limit 1.02)" in capsys.readouterr().out


def test_random_weights_are_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dgemma.verify import source_checkpoint

    manifest, _ = read_manifest(micro_bundle.bundle("onnx"))
    made = replace(manifest, provenance={"shape_of": "2b", "random_weights": 5})
    eager, facts = source_checkpoint.load(made, "2b")
    assert facts["same"] and "seed 5" in facts["name"] and eager.config.canvas_length == micro.N
    with pytest.raises(UsageError, match="can only be made by torch"):
        source_checkpoint.load(made, "2b", "tpu")


def test_a_replay_needs_no_torch(bundle: Path) -> None:
    """A machine with only an engine can verify the bundle that it was given."""
    script = (
        "import sys; sys.modules['torch'] = None; sys.path.insert(0, 'tests/support')\n"
        "from fake_bundle import FakeEngine; from dgemma.runtime import session\n"
        f"session.open_engine = lambda bundle, *_: FakeEngine(bundle, answer={ANSWER})\n"
        f"from dgemma.cli import main; main(['verify', {str(bundle)!r}])\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "PASSED" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_tiny_end_to_end(tmp_path: Path, repo_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """8 bits of the trained checkpoint pass the gate, and the report is drawn."""
    checkpoint, out = str(repo_root / "checkpoints" / "tiny"), tmp_path / "tiny.dgemma"
    assert dispatch(["export", checkpoint, "--out", str(out), "--engine", "onnx", "--recipe", "w8"]) == 0
    capsys.readouterr()
    args = ["verify", str(out), "--checkpoint", checkpoint, "--report", str(tmp_path / "report"), "--json", "--threads", "1"]
    assert dispatch(args) == 0
    found = json.loads(capsys.readouterr().out)["float"]["onnx"]
    assert found["prompts"]["count"] == found["free_running"]["prompts"] == 612
    assert min(exact["value"] for exact in found["free_running"]["exact_match"].values()) > 0.85
    assert 0 < found["teacher_forced"]["kl"]["mean"] < 1e-3 and found["teacher_forced"]["same_argmax"] > 0.999
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        "ladder.png",
        "agreement-onnx.png",
        "entropy-onnx.png",
        "accuracy.png",
        "report.html",
    }
