"""Outputs that are not numbers: one typed error that names the step, in every loop and decoder; other failures stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_active import ActiveFake, active_session
from fake_bundle import PAD, FakeEngine, fake_session, manifest, spec

from dgemma.core.errors import EngineError
from dgemma.core.manifest import GraphSpec, list_files, write_manifest
from dgemma.runtime import engines
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array, Feeds, IndexOutOfBounds
from dgemma.runtime.session import Session

ANSWER = list(range(200, 240))
PROMPT = [2, 6]
SECOND = "is not a number \\(NaN\\) in step 2 of canvas 2; .*`dgemma verify`"


def spoil(monkeypatch: pytest.MonkeyPatch, graph: str, output: int, *, call: int, cls: type[FakeEngine] = FakeEngine) -> None:
    """One row of an output is NaN in the so-manieth call of a graph."""
    plain, calls = getattr(cls, f"_{graph}"), 0

    def spoiled(self: FakeEngine, feeds: Feeds) -> Sequence[Array]:
        nonlocal calls
        calls += 1
        outputs = list(plain(self, feeds))
        if calls == call:
            outputs[output] = outputs[output].copy()
            outputs[output].reshape(-1)[0] = np.nan
        return outputs

    monkeypatch.setattr(cls, f"_{graph}", spoiled)


def test_the_host_loop_names_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = fake_session(tmp_path / "b", ANSWER)
    steps = session.generate(PROMPT, max_new_tokens=16).steps
    spoil(monkeypatch, "denoise", 2, call=steps + 2)
    with pytest.raises(EngineError, match=SECOND):
        session.generate(PROMPT)
    assert session.prefix_ids == (*PROMPT, *ANSWER[:16])  # as before the canvas


def test_the_active_loop_names_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = active_session(tmp_path / "b", ANSWER)
    steps = session.generate(PROMPT, max_new_tokens=16, early_commit=0.1).steps
    spoil(monkeypatch, "denoise_active", 2, call=steps + 2, cls=ActiveFake)
    with pytest.raises(EngineError, match=SECOND):
        session.generate(PROMPT, early_commit=0.1)


def test_the_graph_loop_names_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = fake_session(tmp_path / "b", ANSWER)
    generate, calls = FakeEngine._generate, 0

    def spoiled(self: FakeEngine, feeds: Feeds) -> Sequence[Array]:
        nonlocal calls
        calls += 1
        outputs = generate(self, feeds)
        if calls == 2:
            outputs[4][1, 3] = np.nan
        return outputs

    monkeypatch.setattr(FakeEngine, "_generate", spoiled)
    with pytest.raises(EngineError, match=SECOND):
        session.generate(PROMPT, loop="graph")


@pytest.mark.parametrize("loop", ["host", "graph"])
def test_an_index_that_the_draw_made_of_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    def fails(self: FakeEngine, feeds: Feeds) -> Sequence[Array]:
        raise IndexOutOfBounds("an index")

    session = fake_session(tmp_path / "b", ANSWER)
    monkeypatch.setattr(FakeEngine, "_denoise" if loop == "host" else "_generate", fails)
    with pytest.raises(EngineError, match=r"not a number \(NaN\) in .*step .*canvas 1"):
        session.generate(PROMPT, loop=loop)
    session = fake_session(tmp_path / "c", ANSWER)  # another failure stays what it is
    fake: Any = session._engine
    fake.fail_on = "denoise" if loop == "host" else "generate"
    with pytest.raises(EngineError, match=r"native code is unhappy$"):
        session.generate(PROMPT, loop=loop)


def test_the_host_loop_finds_the_step_of_a_fused_graph_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = fake_session(tmp_path / "b", ANSWER)
    generate, calls = FakeEngine._generate, 0

    def fails(self: FakeEngine, feeds: Feeds) -> Sequence[Array]:
        nonlocal calls
        calls += 1
        if calls == 2:
            spoil(monkeypatch, "denoise", 2, call=2)  # of the host loop, which begins with the canvas that failed
            raise IndexOutOfBounds("an index")
        return generate(self, feeds)

    monkeypatch.setattr(FakeEngine, "_generate", fails)
    with pytest.raises(EngineError, match=SECOND):
        session.generate(PROMPT, loop="graph")


def test_encoding_names_the_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = fake_session(tmp_path / "b", ANSWER)
    spoil(monkeypatch, "encode", -1, call=1)
    with pytest.raises(EngineError, match="NaN\\) in the encoding of positions 0 to 1;"):
        session.generate(PROMPT)


def test_decoding_looks_behind_a_token_of_id_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`decode` gives ids alone, and the argmax of NaN is 0: one step of denoising tells it from a pad."""

    def nothing(self: FakeEngine, feeds: Feeds) -> list[Array]:
        return [np.array([PAD]), *decode(self, feeds)[1:]]

    decode = FakeEngine._decode
    monkeypatch.setattr(FakeEngine, "_decode", nothing)
    session: Session = fake_session(tmp_path / "b", ANSWER)
    assert session.decode_greedy(PROMPT, max_new_tokens=3).tokens == (PAD,) * 3
    spoil(monkeypatch, "denoise", 2, call=1)
    with pytest.raises(EngineError, match="NaN\\) in token 1;"):
        session.decode_greedy(PROMPT, max_new_tokens=3)


def test_onnxruntime_says_that_an_index_is_out_of_bounds(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper, save

    path = tmp_path / "b"
    (path / "onnx").mkdir(parents=True)
    nodes = [helper.make_node("Gather", ["table", "i"], ["value"])]
    ids, value = (helper.make_tensor_value_info(n, k, [1]) for n, k in (("i", TensorProto.INT64), ("value", TensorProto.FLOAT)))
    table = numpy_helper.from_array(np.arange(3, dtype=np.float32), "table")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [ids], [value], [table]), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    save(model, str(path / "onnx" / "g.onnx"))
    graph = GraphSpec(file="onnx/g.onnx", inputs=(spec("i", "int64", 1),), outputs=(spec("value", "float32", 1),))
    made = manifest(("onnx",), tokenizer=None, graphs={"onnx": {"g": graph}}, dims={})
    write_manifest(path, replace(made, files=list_files(path)))
    engine = engines.open_engine(Bundle.open(path), "onnx", 1)
    assert engine.run("g", {"i": np.array([2])})["value"].tolist() == [2]
    with pytest.raises(IndexOutOfBounds, match="graph 'g'"):
        engine.run("g", {"i": np.array([3])})
