"""`dgemma reference compile`: operations counted, artifacts, reports and exit statuses; libtpu compiles tiny in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dgemma.cli import dispatch
from dgemma.core.config import PRESETS
from dgemma.core.install import pip_install
from dgemma.reference import compile as compiling
from dgemma.reference import cost, tpu, weights
from dgemma.reference.generate import temperatures
from dgemma.reference.texts import empty_prefix

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: the reference extra has it")


def request(target: str = "2b", **options: Any) -> compiling.CompileRequest:
    return compiling.request(target, topology=options.pop("topology", "v4:1x1x1"), **options)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_count_is_that_of_xla(preset: str) -> None:
    """Products alone against XLA's count of an unrolled step, elementwise operations included: within 1 %, and below it."""
    wanted = request(preset)
    counted = cost.step_cost(wanted.config, canvas=256, slots=1024, bytes_per_value=2)
    xla = compiling.one_step_flops(wanted)
    assert 1.0 < xla / counted.flops < 1.01
    assert (counted.flops_chosen < counted.flops / 4) == wanted.config.is_moe
    fewer = replace(wanted.config, layer_types=(), num_layers=wanted.config.num_layers - 1)
    assert xla / cost.step_cost(fewer, canvas=256, slots=1024, bytes_per_value=2).flops > 1.01  # control: a layer less


def test_parameters_are_the_design_s() -> None:
    sizes = {name: weights.parameters(weights.shapes(config, "bfloat16")) for name, config in PRESETS.items()}
    assert 2.7e9 < sizes["2b"] < 2.75e9
    assert 24e9 < sizes["26b-a4b"] < 27e9


@pytest.fixture(scope="module")
def artifacts(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[compiling.CompileRequest, Path]:
    wanted = replace(request(str(tiny_checkpoint), context=128, steps=4), dtype="float32")
    folder = tmp_path_factory.mktemp("artifacts")
    assert [p.name for p in compiling.write_artifacts(wanted, folder, lambda _: None)] == [
        "generate-tpu.jaxexport",
        "generate-cpu.jaxexport",
    ]
    return wanted, folder


def test_the_cpu_artifact_equals_the_jitted_program(artifacts: tuple[compiling.CompileRequest, Path]) -> None:
    wanted, folder = artifacts
    config, n = wanted.config, wanted.config.canvas_length
    noise = np.random.default_rng(1)
    arguments = (
        weights.random(config, 0, "float32"),
        noise.integers(0, config.vocab_size, n).astype(np.int32),
        noise.integers(0, 1 << 32, (4, 2, n), np.uint32),
        np.bool_(False),
        empty_prefix(config, wanted.slots, np.dtype(np.float32)),
        np.int32(0),
    )
    call = compiling.read_artifact(folder / "generate-cpu.jaxexport")
    got, want = jax.device_get(call(*arguments)), jax.device_get(jax.jit(wanted.program())(*arguments))
    assert int(want.steps) == 4
    for name, expected in want._asdict().items():
        np.testing.assert_array_equal(getattr(got, name), expected, err_msg=name)
    other = jax.device_get(call(*arguments[:2], arguments[2][::-1].copy(), *arguments[3:]))
    assert (other.canvases != want.canvases).any()  # control: other noise


def test_the_tpu_artifact_is_not_for_the_cpu(artifacts: tuple[compiling.CompileRequest, Path]) -> None:
    wanted, folder = artifacts
    call = compiling.read_artifact(folder / "generate-tpu.jaxexport")
    with pytest.raises(ValueError, match="platform"):
        jax.jit(call).lower(*wanted.shapes())


@needs_libtpu
def test_tiny_compiles_for_one_chip(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reference", "compile", str(tiny_checkpoint), "--context", "320", "--steps", "3", "--json"]
    assert dispatch([*arguments, "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["steps"], report["canvas"], report["prefix"], report["chips"]) == (3, 64, 256, 1)
    assert report["fits"] is True and report["measured"] is None
    assert report["memory"]["arguments"] <= report["memory"]["peak"] < report["memory"]["usable"] == cost.V4.memory
    assert report["flops"]["total"] == 3 * report["flops"]["per_step"]
    estimate = report["compiler_estimate"]
    assert estimate["trip_counts"] == [3, 5]  # steps, sliding layers
    assert estimate["cycles"] > 3 * 10_000 and "estimate, not a measurement" in estimate["what"]
    assert all(text in err for text in ("lower", "compile", "export for cpu"))
    assert dispatch(arguments[:-1]) == 0
    out, _ = capsys.readouterr()
    assert "fits          yes" in out and "an estimate, not a measurement" in out and "measured " not in out


@needs_libtpu
def test_four_chips_share_the_weights(tiny_checkpoint: Path) -> None:
    whole = compiling.compile_report(request(str(tiny_checkpoint), context=128, steps=2), lambda _: None)
    shared = compiling.compile_report(request(str(tiny_checkpoint), context=128, steps=2, topology="v4:2x2x1"), lambda _: None)
    assert shared["chips"] == 4
    assert shared["memory"]["arguments"] < 0.5 * whole["memory"]["arguments"]


@needs_libtpu
def test_what_does_not_fit_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["reference", "compile", "26b-a4b"]) == 1
    out, _ = capsys.readouterr()
    assert "fits          no: the arguments alone exceed a chip's memory" in out
    assert dispatch(["reference", "compile", "26b-a4b", "--json"]) == 1
    report = json.loads(capsys.readouterr()[0])
    assert report["fits"] is False and report["memory"]["arguments"] > report["memory"]["usable"]


@needs_libtpu
def test_what_the_compiler_finds_too_large_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The arguments fit into a chip, the temporaries beside them do not."""
    assert dispatch(["reference", "compile", "9b", "--context", "34000", "--json"]) == 1
    report = json.loads(capsys.readouterr()[0])
    assert report["memory"]["arguments"] < report["memory"]["usable"]
    assert "Ran out of memory" in report["reason"]


@needs_libtpu
@pytest.mark.slow
def test_2b_compiles_within_a_minute_and_2_gb(repo_root: Path) -> None:
    """In a process of its own, whose peak memory is nobody else's."""
    command = [sys.executable, "-m", "dgemma.cli", "reference", "compile", "2b", "--json"]
    command += ["--steps", "16", "--canvas", "256", "--context", "1280"]
    environment = {**os.environ, "PYTHONPATH": str(repo_root / "src")}
    report = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert report["fits"]
    assert report["compiler_estimate"]["trip_counts"] == [16, 4, 5]
    assert report["compile"]["lower_seconds"] + report["compile"]["compile_seconds"] < 60
    assert report["compile"]["peak_host_bytes"] < 2e9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compile", "3b"], "3b: no such checkpoint folder"),
        (["run", "2b"], "choose compile"),
        (["compile", "2b", "--topology", "v5e:2x2"], "v4:XxYxZ"),
        (["compile", "2b", "--topology", "v4:0x1x1"], "v4:XxYxZ"),
        (["compile", "2b", "--canvas", "0"], "--canvas 0"),
        (["compile", "2b", "--context", "256"], "--context 256"),
        (["compile", "2b", "--context", "999999"], "at most 131072"),
        (["compile", "2b", "--steps", "0"], "steps"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["reference", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("package", ["jax", "libtpu"])
def test_a_missing_package_is_one_line(
    package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dgemma.cli.reference as command

    def without(name: str) -> Any:
        return None if name == package else find_spec(name)

    monkeypatch.setattr(command, "find_spec", without)
    monkeypatch.setattr(tpu, "find_spec", without)
    assert dispatch(["reference", "compile", "2b"]) == 2
    _, err = capsys.readouterr()
    assert f"needs package '{package}'" in err.splitlines()[-1] and pip_install("reference") in err


def test_temperatures_are_the_policy_s() -> None:
    policy = request(steps=16).policy
    assert temperatures(policy).tolist() == [float(np.float32(policy.temperature(r))) for r in range(16, 0, -1)]


SHARDED = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from dgemma.core.config import ModelConfig
from dgemma.core.sampler import SamplerConfig
from dgemma.reference import compile as compiling, sharding, weights
config = ModelConfig(
    vocab_size=512, hidden_size=32, intermediate_size=48, num_layers=8, num_heads=8, num_kv_heads=4, head_dim=16,
    global_num_kv_heads=2, global_head_dim=32, sliding_window=8, canvas_length=16, num_experts=8, top_k_experts=2,
    moe_intermediate_size=16,
)
wanted = compiling.CompileRequest(
    name="x", folder=None, config=config, policy=SamplerConfig(steps=3, entropy_bound=40.0), slots=24, topology="v4:2x2x1",
    dtype="float32",
)
on = sharding.mesh(jax.devices())
places = compiling._places(wanted, on)
rng = np.random.default_rng(0)
shapes = wanted.shapes()
prefix = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes[4])
loaded = jax.tree.map(lambda w: w * 8 if w.ndim > 2 else w, weights.random(config, 0, "float32"))
arguments = (
    loaded, rng.integers(0, 512, 16).astype(np.int32), rng.integers(0, 1 << 32, (3, 2, 16), np.uint32), np.bool_(False),
    prefix, np.int32(20),
)
want = jax.device_get(jax.jit(wanted.program())(*arguments))
shared = jax.jit(wanted.program(), in_shardings=places)
got = jax.device_get(shared(*jax.tree.map(jax.device_put, arguments, places)))
split = sum(not place.is_fully_replicated for place in jax.tree.leaves(places))
assert on.size == 4 and split > 20, split
assert 0 < want.accepts.mean() < 1, want.accepts.mean()
assert all(np.array_equal(getattr(got, n), getattr(want, n)) for n in ("argmaxes", "canvases", "accepts", "committed"))
print(np.abs(got.entropies - want.entropies).max())
"""


@pytest.mark.slow
def test_shared_by_four_devices_it_computes_the_same() -> None:
    """The shardings of the four-chip program, on four devices of the CPU."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1e-3
