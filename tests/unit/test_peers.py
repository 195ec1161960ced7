"""Peers: model files that are read back, output of other programs as recorded, turns, ratios, and what is left out."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_bundle import MODEL_CONFIG, write_bundle
from gguf import GGUFReader

from dgemma.benchmarks.studies import tables
from dgemma.benchmarks.studies.peers import catalogue, gguf, llama, peer, show, transformers_step
from dgemma.benchmarks.studies.peers import run as running
from dgemma.benchmarks.studies.peers.__main__ import run
from dgemma.benchmarks.studies.peers.catalogue import PeersRequest
from dgemma.benchmarks.studies.peers.peer import Peer, Sample
from dgemma.benchmarks.studies.peers.run import Turns, summarize, take_turns
from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.errors import EngineError, UsageError
from dgemma.core.shapes import parameter_count

SHAPE = ModelConfig(
    vocab_size=96, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    global_num_kv_heads=1, global_head_dim=32, sliding_window=8, canvas_length=16,
    layer_types=("sliding_attention", "full_attention"),
)  # fmt: skip
# Of SHAPE, by hand: embedding 96·64; layer 0 q 64·64, k and v 64·32, output 64·64; layer 1 q and output 64·128, k 64·32, no v;
# each layer's MLP 3·64·128. Vectors: output norm 64 and 16 frequencies; four norms of 64, two of the head's size, one scalar.
WEIGHTS = 96 * 64 + (64 * 64 + 2 * 64 * 32 + 64 * 64) + (2 * 64 * 128 + 64 * 32) + 2 * 3 * 64 * 128
VECTORS = 64 + 16 + 2 * (4 * 64 + 1) + 2 * 16 + 2 * 32
BUILD = {"build_commit": "abc1234", "build_number": 9000, "n_depth": 32}
BENCH: list[dict[str, Any]] = [
    {**BUILD, "n_prompt": 16, "n_gen": 0, "samples_ns": [8_000_000, 6_000_000]},
    {**BUILD, "n_prompt": 0, "n_gen": 64, "samples_ns": [64_000_000]},
]
# As the DiffusionGemma branch prints it; the figures are those of a comment in its pull request.
DIFFUSION = """diffusion step: 20/48 [====] 41%
total time: 4551.07ms, time per step: 216.72ms (21 steps over 1 blocks, entropy-bound)
throughput: 56.3 tok/s (256 tok in 4551.07ms), in-step parallel 1181 tok/s (256-tok canvas x 21.0 steps/block)
"""


def values_of(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_model_file_is_read_back_with_the_dims_and_spread_that_it_should_have(kind: str, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m.gguf", SHAPE, gguf.KINDS[kind], 64)
    found = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    matrices = {name: tuple(tensor.shape) for name, tensor in found.items() if tensor.tensor_type.name == kind.upper()}
    vectors = [tensor for tensor in found.values() if tensor.tensor_type.name == "F32"]
    assert len(matrices) + len(vectors) == len(found)
    assert sum(int(np.prod(dims)) for dims in matrices.values()) == WEIGHTS
    assert sum(tensor.data.size for tensor in vectors) == VECTORS
    assert gguf.file_bytes(SHAPE, gguf.KINDS[kind]) == WEIGHTS * {"q4_0": 18, "q8_0": 34}[kind] // 32 + 4 * VECTORS
    assert matrices["blk.1.attn_q.weight"] == (64, 4 * 32)
    assert matrices["blk.1.attn_k.weight"] == (64, 32)
    assert matrices["blk.0.ffn_down.weight"] == (128, 64)
    assert "blk.1.attn_v.weight" not in matrices
    assert "blk.0.attn_v.weight" in matrices
    blocks = found["token_embd.weight"].data.reshape(96 * 2, -1)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    if kind == "q4_0":  # two weights a byte, 8 is zero
        integers = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).astype(np.float32) - 8
    else:
        integers = blocks[:, 2:].view(np.int8).astype(np.float32)
    assert float((scales * integers).std()) == pytest.approx(0.02, rel=0.05)
    frequencies = found["rope_freqs.weight"].data
    assert list(frequencies[:4]) == [1.0] * 4  # a quarter of 16 pairs rotates
    assert (frequencies[4:] == np.float32(1e30)).all()


def test_metadata_says_windows_heads_and_vocabulary(tmp_path: Path) -> None:
    gguf.write(tmp_path / "m.gguf", SHAPE, gguf.KINDS["q8_0"], 64)
    values = values_of(tmp_path / "m.gguf")
    assert values["general.architecture"] == "gemma4"
    assert values["gemma4.attention.sliding_window_pattern"] == [True, False]
    assert values["gemma4.attention.head_count_kv"] == [2, 1]
    assert (values["gemma4.attention.key_length"], values["gemma4.attention.key_length_swa"]) == (32, 16)
    assert values["gemma4.vocab_size"] == 96
    assert values["gemma4.final_logit_softcapping"] == 30.0


def test_shapes_that_blocks_do_not_fill_are_refused() -> None:
    with pytest.raises(UsageError, match="a width of 8 is not a multiple of the 32"):
        list(gguf.tensors(MODEL_CONFIG))


def test_experts_are_written_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    """By hand: 4 experts of width 32 in each layer, gate and up in one matrix, a float32 router with scales."""
    mixture = replace(SHAPE, num_experts=4, top_k_experts=2, moe_intermediate_size=32)
    gguf.write(tmp_path / "m.gguf", mixture, gguf.KINDS["q4_0"], 64)
    found = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    for i in range(2):
        shapes = {"ffn_gate_up_exps": (64, 64, 4), "ffn_down_exps": (32, 64, 4), "ffn_gate_inp": (64, 4)}
        for name, dims in shapes.items():
            assert tuple(found[f"blk.{i}.{name}.weight"].shape) == dims
        assert found[f"blk.{i}.ffn_gate_inp.weight"].tensor_type.name == "F32"
        assert found[f"blk.{i}.ffn_down_exps.weight"].tensor_type.name == "Q4_0"
        assert found[f"blk.{i}.ffn_gate_inp.scale"].data.size == 64 and found[f"blk.{i}.ffn_down_exps.scale"].data.size == 4
    router = found["blk.0.ffn_gate_inp.weight"].data
    assert 0.01 < float(router.std()) < 0.04
    values = values_of(tmp_path / "m.gguf")
    assert [values[f"gemma4.expert_{key}"] for key in ("count", "used_count", "feed_forward_length")] == [4, 2, 32]
    more = 2 * 4 * 3 * 64 * 32 * 18 // 32 + 4 * 2 * (64 * 4 + 64 + 4 + 3 * 64)
    assert gguf.file_bytes(mixture, gguf.KINDS["q4_0"]) == gguf.file_bytes(SHAPE, gguf.KINDS["q4_0"]) + more
    gguf.write(tmp_path / "d.gguf", SHAPE, gguf.KINDS["q4_0"], 64)
    assert not any("exps" in tensor.name for tensor in GGUFReader(tmp_path / "d.gguf").tensors)


def test_size_of_2b_is_that_of_its_parameters() -> None:
    """2.73 B parameters less self-conditioning's three matrices, 4.5 bits each."""
    c = PRESETS["2b"]
    found = gguf.file_bytes(c, gguf.KINDS["q4_0"])
    assert found == pytest.approx((2.73e9 - 3 * c.hidden_size * c.intermediate_size) * 4.5 / 8, rel=0.01)


def test_llama_bench_json_and_the_diffusion_summary_are_read() -> None:
    sample = llama.parse_bench(json.dumps(BENCH))
    assert sample.token_s == [0.001]  # 64 ms, 64 tokens
    assert sample.prefill_s == [0.008, 0.006]
    assert sample.version == "9000 (abc1234)"
    assert sample.step_s == []
    assert llama.parse_diffusion(DIFFUSION).step_s == [0.21672]


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(BENCH[:1]), json.dumps([{}, {}]), json.dumps([*BENCH, BENCH[0]])])
def test_other_json_than_llama_bench_prints_is_one_line(text: str) -> None:
    with pytest.raises(EngineError, match="another form"):
        llama.parse_bench(text)


def test_a_diffusion_program_without_its_summary_is_one_line() -> None:
    with pytest.raises(EngineError, match="no 'time per step'"):
        llama.parse_diffusion("error: unsupported model for diffusion")


def test_programs_are_found_in_a_build_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither llama-bench nor llama-diffusion-cli"):
        llama.check_folder(tmp_path)
    (tmp_path / "build/bin").mkdir(parents=True)
    (tmp_path / "build/bin/llama-bench").touch()
    llama.check_folder(tmp_path)
    assert llama.find(tmp_path, "llama-bench") == tmp_path / "build/bin/llama-bench"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_gets_its_threads_and_its_last_line_is_the_reason() -> None:
    out, _ = peer.call(python("import os; print(os.environ['OMP_NUM_THREADS'], os.environ['X'])"), 3, 60, {"X": "y"})
    assert out.split() == ["3", "y"]
    failing = "import sys; print('noise', file=sys.stderr); sys.exit('error: no such model')"
    with pytest.raises(EngineError, match=r"^exit status 1: no such model$"):
        peer.call(python(failing), 1, 60)
    with pytest.raises(EngineError, match="absent cannot be started"):
        peer.call(["/nowhere/absent"], 1, 60)
    with pytest.raises(EngineError, match="not the expected JSON"):
        Sample.from_output("hello\n")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="groups of processes")
def test_a_process_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = f"import subprocess as s; c = s.Popen(['sleep', '60']); open({str(mark)!r}, 'w').write(str(c.pid)); c.wait()"
    with pytest.raises(EngineError, match="more than 3 s and was ended; give --limit"):
        peer.call(python(code), 1, 3)
    child = Path(f"/proc/{mark.read_text()}/stat")
    deadline = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def fake(name: str, log: list[str], samples: list[Sample | str], need: int = 0) -> Turns:
    given = iter(samples)

    def measure() -> Sample:
        log.append(name)
        one = next(given)
        if isinstance(one, str):
            raise EngineError(one)
        return one

    return Turns(Peer(name=name, weights="w", bits=8.0, need=need, measure=measure))


def test_peers_take_turns_and_a_failing_one_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "available", lambda: 1_000_000_000)
    log: list[str] = []
    sample = Sample(version="1", step_s=[1.0])
    every = [fake("dgemma", log, [sample] * 3), fake("a", log, [sample, "it broke"]), fake("big", log, [], need=12 * 10**9)]
    every += [fake("c", log, ["no such model"])]
    take_turns(every, 3, lambda _: None)
    assert log == ["dgemma", "a", "c", "dgemma", "a", "dgemma"]
    assert [turns.why for turns in every[:2]] == [None, "in round 2: it broke"]
    assert every[2].why == "it needs about 12.0 GB of memory and 1.0 GB is free; close other programs"
    assert every[3].why == "no such model"
    assert [row["peer"] for row in summarize(every)] == ["dgemma", "a"]
    with pytest.raises(EngineError, match="the bundle's own process failed: broken"):
        take_turns([fake("dgemma", [], ["broken"])], 1, lambda _: None)


def test_figures_are_of_all_samples_and_ratios_of_the_same_round() -> None:
    ours = fake("dgemma", [], [])
    ours.samples = {
        0: Sample(version="1", step_s=[1.0, 3.0], token_s=[0.1]),
        1: Sample(version="1", step_s=[4.0], token_s=[0.2]),
    }
    other = fake("a", [], [])
    other.samples = {
        0: Sample(version="2", step_s=[6.0]),
        1: Sample(version="2", step_s=[4.0], token_s=[0.1], prefill_s=[2.0]),
    }
    _, row = summarize([ours, other])
    assert row["step_ms"]["median"] == 5000.0
    assert row["step_over_ours"]["median"] == 2.0  # 6 over the median 2, and 4 over 4
    assert row["token_over_ours"]["median"] == 0.5  # its only tokens are of the second round: not 0.1 over 0.1 or 0.15
    assert row["tokens_per_s"]["median"] == pytest.approx(10.0)
    assert row["prefill_over_ours"]["median"] == 0.5  # over the bundle's step


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peers": ("vllm",)}, "--peers: unknown 'vllm'; choose from transformers, llama.cpp"),
        ({"peers": ("llama",)}, "--peers: unknown 'llama'"),
        ({"threads": 0}, "--threads 0 must be between 1"),
        ({"rounds": 0}, "--rounds 0 must be"),
        ({"limit_s": 0.0}, "--limit 0.0 must be"),
        ({"diffusion_model": Path("/none.gguf")}, "no such file"),
        ({"llama": Path("/none")}, "--llama /none"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        PeersRequest(bundle=Path("b"), **changes)
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_peers_are_picked_by_what_their_names_begin_with() -> None:
    request = PeersRequest(bundle=Path("b"), peers=("transformers/eager", "llama.cpp/q8_0"))
    picked = [name for name in catalogue.NAMES if request.wants(name)]
    assert picked == ["transformers/eager/float32", "transformers/eager/bfloat16", "llama.cpp/q8_0"]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Commands that were started; each is answered by a recorded output."""
    commands: list[list[str]] = []

    def call(command: list[str], threads: int, limit_s: float, extra: Any = None) -> tuple[str, str]:
        words = [str(word) for word in command]
        commands.append(words)
        if "llama-bench" in words[0]:
            assert values_of(Path(words[2]))["gemma4.block_count"] == 2
            return json.dumps(BENCH), ""
        if "transformers_step" in words[2] and "bfloat16" in words:
            raise EngineError("exit status 1: no bfloat16 here")
        slow = 4.0 if "transformers_step" in words[2] else 1.0
        compiled = 30.0 if "--compiled" in words else None
        return Sample(version="1", step_s=[slow / 100], token_s=[slow / 1000], compile_s=compiled).to_line(), ""

    monkeypatch.setattr(peer, "call", call)
    monkeypatch.setattr(running, "choose", lambda bundle, engine: ("onnx", "1"))
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/llama-bench").touch()
    return commands


def test_a_run_from_end_to_end(programs: list[list[str]], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "b.dgemma", model=replace(SHAPE, vocab_size=618), quantization={"recipe": "w8"})
    out = tmp_path / "peers-toy.json"
    options = ["--prefix", "32", "--rounds", "2", "--threads", "2", "--llama", str(tmp_path / "llama"), "--out", str(out)]
    assert run([str(bundle), *options]) == 0
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == result
    rows = {row["peer"]: row for row in result["runs"]}
    float32 = ["transformers/eager/float32", "transformers/compiled/float32"]
    assert list(rows) == ["dgemma", *float32, "llama.cpp/q4_0", "llama.cpp/q8_0"]
    assert rows["transformers/eager/float32"]["step_over_ours"]["median"] == 4.0
    assert rows["llama.cpp/q4_0"]["step_ms"] is None
    assert rows["llama.cpp/q4_0"]["prefill_over_ours"]["median"] == 0.7  # 7 ms over 10 ms
    assert rows["llama.cpp/q8_0"]["bits"] == 8.5
    left = {one["peer"]: one["why"] for one in result["left_out"]}
    assert left["transformers/eager/bfloat16"] == "exit status 1: no bfloat16 here"
    assert "no llama-diffusion-cli" in left["llama.cpp/diffusion"]
    assert len(programs) == 2 * 5 + 2  # those that failed were not tried again
    assert not Path(programs[-1][2]).parent.exists()  # model files are gone
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    table = tables.peers("toy")
    assert "| llama.cpp/q4_0, Q4_0 | 4.50 | – | – | 1000.0 [1000.0 … 1000.0] | 7.0 | 0.70 |" in table
    assert "left out: transformers/eager/bfloat16: exit status 1" in table
    assert "compiled in 30 s" in table
    assert all(len(row) == len(show.HEADER) for row in show.rows(result))


def test_widths_that_do_not_fit_and_a_missing_library_are_reasons(
    programs: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgemma.benchmarks.studies.peers.llama_binding.PACKAGE", "no_such_package")
    bundle = write_bundle(tmp_path / "b.dgemma")
    out = tmp_path / "r.json"
    assert run([str(bundle), "--peers", "llama.cpp/q8_0", "--prefix", "32", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["left_out"] == [
        {"peer": "llama.cpp/q8_0", "why": "a width of 8 is not a multiple of the 32 weights of a GGUF block"}
    ]
    given = ["--llama", str(tmp_path / "llama"), "--prefix", "32", "--out", str(out)]
    fits = write_bundle(tmp_path / "fits.dgemma", model=replace(SHAPE, vocab_size=618))
    monkeypatch.setattr(gguf, "PACKAGE", "no_such_package")
    assert run([str(fits), "--peers", "llama.cpp/q8_0", *given]) == 0
    assert json.loads(out.read_text())["left_out"][0]["why"].startswith("gguf, which writes its model file, is not installed")
    with pytest.raises(UsageError, match="--prefix 177: with a canvas it fills more than the context; give at most 176"):
        run([str(bundle), "--prefix", "177"])


def test_transformers_runs_the_same_dims_eagerly() -> None:
    model = transformers_step.build(SHAPE, 16, torch.float32)
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    assert shapes["model.decoder.layers.0.self_attn.q_proj.weight"] == (64, 64)
    assert shapes["model.decoder.layers.1.self_attn.q_proj.weight"] == (128, 64)
    assert shapes["model.decoder.layers.1.self_attn.k_proj.weight"] == (32, 64)
    assert shapes["model.decoder.embed_tokens.weight"] == (96, 64)
    sample = transformers_step.measure(SHAPE, 16, "float32", prefix=20, repeats=2, tokens=3, compiled=False)
    assert (len(sample.step_s), len(sample.token_s), sample.compile_s) == (2, 3, None)


@pytest.mark.slow
def test_tiny_beside_transformers(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    options = ["--peers", "transformers/eager/float32", "--rounds", "1", "--prefix", "64", "--out", str(out)]
    assert run([str(tiny_bundle), *options]) == 0
    ours, other = json.loads(out.read_text())["runs"]
    assert ours["step_over_ours"]["median"] == 1.0
    assert other["step_ms"]["n"] == 3


def test_a_model_that_does_not_fit_is_measured_with_fewer_layers(
    programs: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = replace(SHAPE, num_layers=12, layer_types=SHAPE.layer_types * 6, vocab_size=618)
    bundle = write_bundle(tmp_path / "b.dgemma", model=deep, quantization={"recipe": "w8"})
    monkeypatch.setattr(catalogue, "_LIBRARIES", 0)
    of_five = 4 * parameter_count(transformers_step.first_layers(deep, 5)) + 4 * 5 * 16 * 618
    monkeypatch.setattr(catalogue, "available", lambda: int(of_five / 0.9) + 1)
    out = tmp_path / "r.json"
    assert (
        run([str(bundle), "--peers", "transformers/eager/float32", "--rounds", "1", "--prefix", "32", "--out", str(out)]) == 0
    )
    (command,) = (words for words in programs if "transformers_step" in words[2])
    assert command[command.index("--layers") + 1] == "5"
    assert json.loads(out.read_text())["runs"][1]["note"] == "no sampler; measured with 5 of 12 layers and scaled"
    monkeypatch.setattr(catalogue, "available", lambda: 1)
    short = catalogue._fitting(lambda layers: 100 * layers, 12)
    assert short == 2


def test_missing_layers_take_what_a_layer_takes_on_average() -> None:
    one = Sample(version="1", step_s=[3.0, 3.0, 9.0], token_s=[1.0])
    some = Sample(version="1", step_s=[11.0, 13.0], token_s=[2.0])
    found = transformers_step.scaled(one, some, 5, 9)
    assert found.step_s == [11.0 + 4 * 2.0, 13.0 + 4 * 2.5]
    assert found.token_s == [3.0]


def test_transformers_runs_a_mixture_of_experts() -> None:
    mixture = replace(SHAPE, num_experts=4, top_k_experts=2, moe_intermediate_size=32)
    sample = transformers_step.measure(mixture, 16, "float32", prefix=20, repeats=1, tokens=1, compiled=False)
    assert sample.step_s and sample.token_s
    model = transformers_step.build(transformers_step.first_layers(mixture, 1), 16, torch.float32)
    names = [name for name in model.state_dict() if "decoder.layers" in name]
    assert any("experts" in name for name in names) and not any("layers.1." in name for name in names)
