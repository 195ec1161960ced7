"""Packed weights of onnxruntime in the cache: the same results, and no bad day that is more than a warning."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import micro
import micro_bundle
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dgemma import Session
from dgemma.cli import dispatch
from dgemma.core.config import ModelConfig
from dgemma.core.errors import DgemmaWarning, EngineError
from dgemma.runtime import cache
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import exact_products, external_data, packed
from dgemma.runtime.engines import onnx as engine_module
from dgemma.runtime.engines.onnx import OnnxEngine


@pytest.fixture(scope="module")
def bundle() -> Path:
    return micro_bundle.bundle("onnx", "w8")


@pytest.fixture(scope="module")
def four_bits() -> Path:
    """A bundle whose weights are multiplied out when it is opened."""
    return micro_bundle.four_bits()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for bundles of any size."""
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_module, "CACHE_FROM", 0)
    return tmp_path / "cache"


def answers(path: Path) -> list[bytes]:
    """Everything that both loops and the baseline give, bit for bit; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Session.load(path, engine="onnx", threads=1) as session:
            found = []
            for loop in ("host", "graph"):
                result = session.generate([5, 6, 7], max_new_tokens=40, loop=loop, adaptive=False, trace=True)
                assert result.trajectory is not None
                found += [result.trajectory.entropy.tobytes(), result.trajectory.canvas_out.tobytes()]
            decoded = session.decode_greedy([5, 6, 7], max_new_tokens=9)
            return [*found, np.array(decoded.tokens).tobytes()]


@pytest.fixture(scope="module")
def packed_before(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """A cache in which a session packed the bundle's weights, and what this session gave."""
    place = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGEMMA_CACHE", str(place))
        patch.setattr(engine_module, "CACHE_FROM", 0)
        return place, answers(bundle)


@pytest.fixture
def plain(packed_before: tuple[Path, list[bytes]], folder: Path) -> list[bytes]:
    """What the bundle's sessions give; its weights are in the test's own cache already."""
    place, found = packed_before
    shutil.copytree(place, folder)
    return found


def entries(path: Path) -> dict[str, Path]:
    """Name of a graph file → its entry."""
    opened = Bundle.open(path)
    return {Path(file).stem: kept.place for file, kept in engine_module.kept(opened, _version()).items()}


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


@pytest.mark.parametrize("recipe", ["fp32", "w8", "w4"])
def test_mapped_weights_give_the_same_bits(recipe: str, four_bits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = four_bits if recipe == "w4" else micro_bundle.bundle("onnx", recipe)
    with monkeypatch.context() as patch:
        patch.setenv("DGEMMA_CACHE", "off")
        plain = answers(path)
    assert answers(path) == plain, "a session that packed and saved"
    before = {place: (place / packed.MODEL).stat().st_mtime_ns for place in entries(path).values()}
    assert len(before) == 2
    assert answers(path) == plain, "a session that mapped what was saved"
    assert {place: (place / packed.MODEL).stat().st_mtime_ns for place in before} == before, "nothing was made again"


@pytest.mark.usefixtures("plain")
def test_what_was_packed_is_mapped(bundle: Path) -> None:
    """A control of the test above: sessions do hold the file, and not only when it was made."""
    session = _open(bundle, "shared")
    assert f"{entries(bundle)['shared'] / packed.WEIGHTS}" in Path("/proc/self/maps").read_text()
    del session


def test_one_bit_of_a_packed_copy_that_samples_miss_is_seen_by_the_engine(bundle: Path, plain: list[bytes]) -> None:
    """It packs again and compares."""
    place = entries(bundle)["shared"]
    weight = next(w for w in external_data.weights((place / packed.MODEL).read_bytes()) if w.keys)
    _flip(place / packed.WEIGHTS, weight.regions[1][0])
    cache.seal(place)
    with pytest.warns(DgemmaWarning, match="was refused"):
        assert _open(bundle, "shared")
    shutil.rmtree(place.parent)
    assert answers(bundle) == plain


@pytest.mark.usefixtures("plain")
def test_two_graphs_store_what_they_share_once(bundle: Path) -> None:
    places = entries(bundle)
    sizes = {name: (place / packed.WEIGHTS).stat().st_size for name, place in places.items()}
    pointed = [w for w in external_data.weights((places["generate"] / packed.MODEL).read_bytes()) if w.keys]
    assert pointed and all(w.file == "shared/weights.bin" for w in pointed), "every packed weight is the other graph's"
    assert sizes["generate"] < sizes["shared"] / 4


@pytest.mark.parametrize("recipe", ["w8", "w4"])
def test_unsigned_weights_are_kept_apart_and_give_the_same_bits(
    recipe: str, bundle: Path, four_bits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a processor does whose products of signed bytes saturate."""
    path = bundle if recipe == "w8" else four_bits
    plain = answers(path)
    monkeypatch.setattr(exact_products, "saturates", lambda: False)
    signed = entries(path)["shared"]
    monkeypatch.setattr(exact_products, "saturates", lambda: True)
    assert answers(path) == plain, "a session that packed and saved"
    places = entries(path)
    assert answers(path) == plain, "a session that mapped what was saved"
    assert places["shared"].parent != signed.parent
    saved = onnx.load(str(places["shared"] / packed.MODEL), load_external_data=False)
    assert {t.data_type for t in saved.graph.initializer if t.name.startswith("unsigned/")} == {TensorProto.UINT8}
    pointed = [w for w in external_data.weights((places["generate"] / packed.MODEL).read_bytes()) if w.keys]
    assert pointed and all(w.file == "shared/weights.bin" for w in pointed), "two graphs store what they share once"


@pytest.mark.parametrize("name", ["shared", "generate"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda place: os.truncate(place / packed.WEIGHTS, (place / packed.WEIGHTS).stat().st_size // 2),
        lambda place: (place / packed.WEIGHTS).write_bytes(b""),
        lambda place: _flip(place / packed.WEIGHTS, 0),
        lambda place: _flip(place / packed.MODEL, 20),
        lambda place: (place / packed.MODEL).unlink(),
        lambda place: (place / cache.SEAL).write_text("{"),
        lambda place: (place / cache.SEAL).unlink(),
    ],
    ids=["truncated", "empty", "weights", "model", "missing", "seal", "unsealed"],
)
def test_a_damaged_entry_is_made_again(name: str, damage: Callable[[Path], None], bundle: Path, plain: list[bytes]) -> None:
    damage(entries(bundle)[name])
    with pytest.warns(DgemmaWarning, match=r"is damaged; packing the weights again") as seen:
        _open(bundle, "shared", "generate")
    assert all("\n" not in str(one.message) for one in seen)
    assert answers(bundle) == plain


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _open(path: Path, *names: str) -> list[object]:
    engine = OnnxEngine(Bundle.open(path), version=_version(), threads=1)
    return [engine.open(f"onnx/{name}.onnx") for name in names]


def test_an_entry_that_the_engine_refuses_is_removed(bundle: Path, plain: list[bytes]) -> None:
    """Sealed nonsense, such as another version of the library might leave."""
    place = entries(bundle)["shared"]
    (place / packed.MODEL).write_bytes(b"\x08\x0a nonsense")
    cache.seal(place)
    with pytest.warns(DgemmaWarning, match="was refused"):
        assert _open(bundle, "shared")
    assert not place.exists()
    assert answers(bundle) == plain


@pytest.mark.usefixtures("plain")
def test_entries_of_another_version_or_processor_are_not_taken(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = entries(bundle)["shared"]
    other = engine_module.kept(Bundle.open(bundle), "9.9")["onnx/shared.onnx"]
    monkeypatch.setattr(cache, "processor", lambda: "another")
    assert other.place.parent != ours.parent and not other.sound
    assert entries(bundle)["shared"].parent != ours.parent


@pytest.mark.usefixtures("plain")
def test_a_graph_whose_base_was_made_anew_is_made_anew(bundle: Path) -> None:
    places = entries(bundle)
    (places["shared"] / "more").write_bytes(b"x")
    cache.seal(places["shared"])
    with pytest.warns(DgemmaWarning, match="generate: is damaged"):
        _open(bundle, "generate")


def test_no_room_is_a_warning(bundle: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(cache, "room", lambda path, size: False)
    with pytest.warns(DgemmaWarning, match=r"no room for packed weights .*DGEMMA_CACHE"):
        assert _open(bundle, "shared")
    assert not any(folder.rglob("*.bin"))


def test_a_disk_that_fills_up_is_a_warning(bundle: Path, folder: Path) -> None:
    """Writing stops at a limit on the size of files, as it would on a full disk; nothing is left and nothing maps a stump."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.warns(DgemmaWarning, match="packed weights cannot be saved"):
            sessions = _open(bundle, "shared")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert sessions and not any(folder.rglob("*.bin"))


def test_a_folder_that_cannot_be_made_is_a_warning(bundle: Path, folder: Path) -> None:
    folder.write_text("in the way")
    with pytest.warns(DgemmaWarning, match="packed weights cannot be saved"):
        assert _open(bundle, "shared")


def test_a_folder_that_cannot_be_written_is_read(bundle: Path, plain: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sound is taken without a lock; what is not there cannot be made, which is a warning.

    Once a process has run a mixture of experts, ONNX Runtime writes that operator's domain into all that it saves, so that the
    operator's library may be asked for, too.
    """
    exclusive, digest = cache.exclusive, Bundle.open(bundle).digest[:16]

    def refuse(path: Path) -> AbstractContextManager[None]:
        if digest in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return exclusive(path)

    monkeypatch.setattr(cache, "exclusive", refuse)
    assert answers(bundle) == plain
    shutil.rmtree(entries(bundle)["generate"])
    with pytest.warns(DgemmaWarning, match="cannot be saved .Permission denied.; set DGEMMA_CACHE"):
        assert _open(bundle, "generate")


def test_a_build_that_is_killed_leaves_nothing_that_loads(bundle: Path, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=_die_while_saving, args=(bundle,))
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    assert any(folder.rglob(packed.WEIGHTS)), "it died before there was anything to leave"
    assert not entries(bundle)["shared"].exists()
    answers(bundle)
    assert len(list(folder.rglob(packed.WEIGHTS))) == 2, "the leavings are gone"


def _die_while_saving(path: Path) -> None:
    def die(stage: Path) -> None:
        os._exit(9)

    packed._check = die
    engine_module.CACHE_FROM = 0
    _open(path, "shared")


def test_two_processes_make_it_once(bundle: Path, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        counts = pool.map(_open_and_count, [str(bundle)] * 2)
    assert sorted(counts) == [0, 1]
    answers(bundle)


def _open_and_count(path: str) -> int:
    """How many times this process saved the graph."""
    engine_module.CACHE_FROM = 0
    saves: list[Path] = []
    save = engine_module.save_session
    engine_module.save_session = lambda source, out, options: (saves.append(out), save(source, out, options))[1]
    _open(Path(path), "shared")
    return len(saves)


def test_small_bundles_and_off_keep_nothing(bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CACHE_FROM", 64 << 20)
    answers(bundle)
    monkeypatch.setattr(engine_module, "CACHE_FROM", 0)
    monkeypatch.setenv("DGEMMA_CACHE", "off")
    answers(bundle)
    assert not folder.exists()


def test_an_engine_that_saves_unsoundly_keeps_nothing(bundle: Path) -> None:
    assert engine_module.kept(Bundle.open(bundle), "1.32.0") and not engine_module.kept(Bundle.open(bundle), "1.29.0")


def test_inspect_shows_what_is_kept(
    bundle: Path, packed_before: tuple[Path, list[bytes]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["inspect", str(bundle), "--verbose"]) == 0
    assert "packed weights kept on this machine\n  none" in capsys.readouterr().out
    shutil.copytree(packed_before[0], folder, dirs_exist_ok=True)
    os.truncate(entries(bundle)["generate"] / packed.MODEL, 10)
    assert dispatch(["inspect", str(bundle), "--verbose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("/shared")]
    assert [line for line in lines if line.endswith("/generate (damaged; made again when needed)")]


def test_the_command_line_says_a_warning_in_one_line(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write_text("in the way")
    assert dispatch(["run", str(bundle), "--prompt-ids", "5,6", "--max-new-tokens", "3", "--engine", "onnx"]) == 0
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and err[0].startswith("warning: ") and "cannot be saved" in err[0]


def test_a_graph_that_is_to_blame_is_an_error(bundle: Path) -> None:
    """The bundle's own fault comes out as ever, after the note that nothing could be kept."""
    engine = OnnxEngine(Bundle.open(bundle), version=_version(), threads=1)
    engine.options = lambda: None  # type: ignore[method-assign]
    with pytest.raises((EngineError, AttributeError)):
        engine.prepare("encode")


def test_external_data_moves_and_all_else_stays() -> None:
    """Against the onnx package: a tensor outside, one in a subgraph, and one inside."""
    inner = helper.make_graph([], "inner", [], [], [_outside("c", 300, 7)])
    body = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    kept = helper.make_tensor("b", TensorProto.FLOAT, [2], [1.0, 2.0])
    outside = _outside("a", 100, 5, prepacked_0="Kernel+12|10;20;0|40;50;0")
    model = helper.make_model(helper.make_graph([body], "g", [], [], [outside, kept]))
    found = external_data.weights(model.SerializeToString())
    assert {(w.name, w.regions, w.keys) for w in found} == {
        ("c", ((300, 7),), ()),
        ("a", ((100, 5), (10, 20), (40, 50)), ("Kernel+12",)),
    }
    far = 1 << 40
    bytes_ = external_data.moved(model.SerializeToString(), lambda w: ("new", [at + far for at, _ in w.regions]))
    moved = onnx.ModelProto.FromString(bytes_)
    data = {e.key: e.value for e in moved.graph.initializer[0].external_data}
    assert data == {
        "location": "new",
        "offset": str(far + 100),
        "length": "5",
        "prepacked_0": f"Kernel+12|{far + 10};20;0|{far + 40};50;0",
    }
    back = external_data.moved(bytes_, lambda w: ("old", [at - far for at, _ in w.regions]))
    assert onnx.ModelProto.FromString(back) == model
    with pytest.raises(ValueError, match="not a model"):
        external_data.weights(b"\x3a\xff\x01 nonsense")


def _outside(name: str, offset: int, length: int, **more: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.UINT8, dims=[length], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "old", "offset": str(offset), "length": str(length), **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_experts_need_room_once() -> None:
    """Nothing packs them, and they are most of a mixture."""
    config = micro.MOE_CONFIG
    each = 3 * config.hidden_size * (config.moe_intermediate_size or 0) * (config.num_experts or 0) * config.num_layers

    def of(model: ModelConfig, **bits: int) -> int:
        manifest: Any = SimpleNamespace(model=model, quantization={"bits": bits})
        return engine_module._experts_bytes(manifest)

    assert of(config, experts=4) == each // 2 and of(config, experts=8) == each
    assert of(config) == of(micro.CONFIG, experts=4) == 0
