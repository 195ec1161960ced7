"""A valid bundle of a toy model whose graphs run in numpy, so that sessions are tested without a native engine.

The toy's keys hold token ids and its values hold positions, so that it reads the prefix out of the caches that the
session hands it: a token in the wrong slot changes the answer or fails an assertion. Its answer to a prompt is a fixed
list of ids, counted from the last START token of the prefix.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dgemma.core.config import ModelConfig
from dgemma.core.manifest import (
    ChatTemplate,
    GraphSpec,
    Manifest,
    TensorSpec,
    TokenizerSpec,
    list_files,
    write_manifest,
)
from dgemma.core.noise import token_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array, Engine, Feeds
from dgemma.runtime.session import Session

TOKENIZER = Path(__file__).parents[2] / "checkpoints" / "tiny" / "tokenizer.model"
VOCAB, N, STEPS, CONTEXT, CHUNK = 618, 16, 6, 192, 24
PAD, EOS, BOS, START_OF_TURN, END_OF_TURN, START = 0, 1, 2, 4, 5, 6  # START is a line break, the template's last id
USER, MODEL = 100, 101  # stand-ins for the roles

MODEL_CONFIG = ModelConfig(
    vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=2,
    global_num_kv_heads=1, global_head_dim=4, sliding_window=8, canvas_length=N, eos_token_ids=(EOS, END_OF_TURN),
    layer_types=("sliding_attention", "full_attention"),
)  # fmt: skip


def spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def graph_specs(suffix: str) -> dict[str, GraphSpec]:
    """The four graphs with the interface of real bundles."""
    prefix, new = [], []
    for layer in range(MODEL_CONFIG.num_layers):
        heads, dim = MODEL_CONFIG.layer_kv_heads(layer), MODEL_CONFIG.layer_head_dim(layer)
        slots = "S" if MODEL_CONFIG.is_full(layer) else "L"
        for kind in ("key", "value"):
            prefix.append(spec(f"prefix_{kind}_{layer}", "float32", 1, slots, heads, dim))
            new.append(spec(f"new_{kind}_{layer}", "float32", 1, "C", heads, dim))
    tokens = [spec("tokens", "int64", 1, "C"), spec("start", "int64", 1), spec("count", "int64", 1)]
    length, hidden = spec("prefix_length", "int64", 1), MODEL_CONFIG.hidden_size
    canvas = spec("canvas", "int64", 1, N)
    denoise_in = [
        canvas,
        spec("soft", "float32", 1, N, hidden),
        spec("words", "int64", 2, N),
        spec("temperature", "float32", 1),
    ]
    denoise_out = [
        spec("next_canvas", "int64", 1, N),
        spec("argmax", "int64", 1, N),
        spec("entropy", "float32", 1, N),
        spec("accepted", "bool", 1, N),
        spec("next_soft", "float32", 1, N, hidden),
    ]
    generate_in = [canvas, spec("words", "int64", STEPS, 2, N), spec("adaptive", "bool", 1)]
    generate_out = [
        spec("committed", "int64", 1, N),
        spec("steps", "int64", 1),
        spec("argmaxes", "int64", STEPS, N),
        spec("canvases", "int64", STEPS, N),
        spec("entropies", "float32", STEPS, N),
        spec("accepts", "bool", STEPS, N),
    ]

    def graph(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> GraphSpec:
        return GraphSpec(file=f"{suffix}/{name}.bin", inputs=(*inputs, *prefix), outputs=tuple(outputs))

    return {
        "encode": graph("encode", tokens, new),
        "denoise": graph("denoise", [*denoise_in, length], denoise_out),
        "generate": graph("generate", [*generate_in, length], generate_out),
        "decode": graph("decode", tokens, [spec("next_token", "int64", 1), *new]),
    }


def manifest(engines: Sequence[str] = ("onnx",), **changes: Any) -> Manifest:
    """A manifest of the toy model; keyword arguments replace its fields."""
    plain = Manifest(
        engines=dict.fromkeys(engines, "1.0"),
        model=MODEL_CONFIG,
        tokenizer=TokenizerSpec(file="tokenizer.model", kind="sentencepiece", vocab_size=VOCAB),
        chat=ChatTemplate(
            start=(BOS,),
            user_prefix=(START_OF_TURN, USER),
            user_suffix=(END_OF_TURN, START),
            model_prefix=(START_OF_TURN, MODEL, START),
            model_suffix=(START,),
        ),
        canvas_length=N,
        steps=STEPS,
        context=CONTEXT,
        chunk=CHUNK,
        sampler=SamplerConfig(steps=STEPS),
        noise={"rows": STEPS},
        dims={"S": (1, CONTEXT), "L": (1, CONTEXT), "C": (1, CHUNK)},
        graphs={e: graph_specs(e) for e in engines},
        quantization={"recipe": "fp32"},
        tools={"dgemma": "0"},
        provenance={"licence": "none"},
    )
    return replace(plain, **changes)


def write_bundle(path: Path, engines: Sequence[str] = ("onnx",), **changes: Any) -> Path:
    """Write a bundle with files for all graphs, and return its path."""
    made = manifest(engines, **changes)
    path.mkdir(parents=True)
    if made.tokenizer is not None and not (path / made.tokenizer.file).exists():
        shutil.copy(TOKENIZER, path / made.tokenizer.file)
    for graphs in made.graphs.values():
        for name, graph in graphs.items():
            (path / graph.file).parent.mkdir(exist_ok=True)
            (path / graph.file).write_bytes(b"toy graph " + name.encode())
    write_manifest(path, replace(made, files=list_files(path)))
    return path


class FakeEngine(Engine):
    """The toy model. `answer` are the ids it gives after START, then a stop token and pads; `calls` counts graph calls.

    Position i of a canvas settles at step i % 3, so argmax canvases are stable from the third step on.
    `entropy_floor` is the entropy of settled positions.
    """

    name: ClassVar[str] = "onnx"

    def __init__(
        self, bundle: Bundle, answer: Sequence[int] = (), *, stop: int = END_OF_TURN, entropy_floor: float = 0.0
    ) -> None:
        super().__init__(bundle, version="1.0")
        self.answer, self.stop, self.entropy_floor = list(answer), stop, entropy_floor
        self.calls: list[str] = []
        self.encoded: list[int] = []  # counts of encode calls
        self.fail_on: str | None = None

    def _load(self, graph: str, spec: GraphSpec) -> None:
        self.calls.append(f"load {graph}")

    def _call(self, graph: str, feeds: Feeds) -> Sequence[Array]:
        self.calls.append(graph)
        if self.fail_on == graph:
            raise RuntimeError("native code is unhappy\nwith a long story")
        outputs: Sequence[Array] = getattr(self, f"_{graph}")(feeds)
        return outputs

    def following(self, ids: Sequence[int]) -> int:
        """The token after `ids`."""
        since = list(reversed(ids)).index(START)
        if since < len(self.answer):
            return self.answer[since]
        return self.stop if since == len(self.answer) else PAD

    @staticmethod
    def prefix(feeds: Feeds, length: int) -> list[int]:
        """Ids of the prefix, read from every layer's keys; positions are checked against the values."""
        slots, read = feeds["prefix_key_1"].shape[1], []
        for layer in range(MODEL_CONFIG.num_layers):
            first = slots - feeds[f"prefix_key_{layer}"].shape[1]  # a sliding layer has the last slots
            assert first <= max(0, length - (MODEL_CONFIG.sliding_window - 1)), "a layer lacks what it sees"
            keys, values = (feeds[f"prefix_{kind}_{layer}"][0, : length - first] for kind in ("key", "value"))
            assert (values == np.arange(first, length, dtype=np.float32)[:, None, None]).all(), "a value is in the wrong slot"
            assert (keys == keys[:, :1, :1]).all()
            read.append(keys[:, 0, 0].astype(int).tolist())
        near, whole = read
        assert near == whole[length - len(near) :]
        return list(whole)

    def _rows(self, feeds: Feeds) -> tuple[list[int], list[Array]]:
        start, count = int(feeds["start"][0]), int(feeds["count"][0])
        tokens = feeds["tokens"][0]
        before = self.prefix(feeds, start)
        rows = []
        for layer in range(MODEL_CONFIG.num_layers):
            shape = (1, len(tokens), MODEL_CONFIG.layer_kv_heads(layer), MODEL_CONFIG.layer_head_dim(layer))
            for values in (tokens, start + np.arange(len(tokens))):
                row = np.zeros(shape, np.float32)
                row[0, :count] = values[:count, None, None]
                rows.append(row)
        return [*before, *tokens[:count].tolist()], rows

    def _encode(self, feeds: Feeds) -> list[Array]:
        self.encoded.append(int(feeds["count"][0]))
        return self._rows(feeds)[1]

    def _decode(self, feeds: Feeds) -> list[Array]:
        ids, rows = self._rows(feeds)
        return [np.array([self.following(ids)]), *rows]

    def _denoise(self, feeds: Feeds) -> list[Array]:
        ids = self.prefix(feeds, int(feeds["prefix_length"][0]))
        target: list[int] = []
        while len(target) < N:
            target.append(self.following([*ids, *target]))
        step = int(feeds["soft"][0, 0, 0])  # the first step of a canvas must see zeros
        settled = np.arange(N) % 3 <= step
        words = feeds["words"].astype(np.uint32)
        argmax = np.where(settled, target, token_from_word(words[0], VOCAB))
        entropy = np.where(settled, np.float32(self.entropy_floor), feeds["temperature"])
        canvas = np.where(settled, target, token_from_word(words[1], VOCAB))
        return [canvas[None], argmax[None], entropy.astype(np.float32)[None], settled[None], feeds["soft"] + np.float32(1)]

    def _generate(self, feeds: Feeds) -> list[Array]:
        """A naive loop, written apart from the session's."""
        sampler, canvas = self.bundle.manifest.sampler, feeds["canvas"]
        soft = np.zeros((1, N, MODEL_CONFIG.hidden_size), np.float32)
        shared = {k: v for k, v in feeds.items() if k.startswith("prefix")}
        argmaxes, canvases = np.full((STEPS, N), -1), np.full((STEPS, N), -1)
        entropies, accepts = np.full((STEPS, N), np.nan, np.float32), np.zeros((STEPS, N), bool)
        steps = unchanged = 0
        for i in range(STEPS):
            temperature = np.array([sampler.temperature(STEPS - i)], np.float32)
            step = {"canvas": canvas, "soft": soft, "words": feeds["words"][i], "temperature": temperature}
            canvas, argmax, entropy, accepted, soft = self._denoise({**shared, **step})
            argmaxes[i], canvases[i], entropies[i], accepts[i] = argmax[0], canvas[0], entropy[0], accepted[0]
            steps = i + 1
            unchanged = unchanged + 1 if i and (argmaxes[i] == argmaxes[i - 1]).all() else 0
            mean = float(np.mean(entropies[i].astype(np.float64)))
            if feeds["adaptive"][0] and unchanged >= sampler.stability_threshold and mean < sampler.confidence_threshold:
                break
        return [argmaxes[steps - 1][None], np.array([steps]), argmaxes, canvases, entropies, accepts]


def fake_session(path: Path, answer: Sequence[int] = (), **engine: Any) -> Session:
    """A session over a fresh bundle at `path`."""
    bundle = Bundle.open(write_bundle(path))
    return Session(bundle, FakeEngine(bundle, answer, **engine))


def fake_engine(session: Session) -> FakeEngine:
    engine = session._engine
    assert isinstance(engine, FakeEngine)
    return engine
