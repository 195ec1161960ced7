"""A session: one bundle on one engine, one prefix, one generation at a time.

It knows nothing of how a graph is run (engines), of tokenizer formats, or of terminals.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Literal, Self

import numpy as np

from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.errors import PromptTooLong, SessionBusy, TokenizerError, UsageError
from dgemma.core.noise import key_from_seed
from dgemma.core.plural import counted
from dgemma.core.trajectory import TrajectoryRecorder
from dgemma.runtime import memory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine
from dgemma.runtime.engines.base import Array, Engine
from dgemma.runtime.loops import DenoisingStep, Loops
from dgemma.runtime.prefix import Prefix, input_dim
from dgemma.runtime.progress import Progress
from dgemma.runtime.result import Result, StepEvent, StopReason, Timings
from dgemma.runtime.tokenizer import chat_ids, load_tokenizer

Loop = Literal["host", "graph"]
LOOPS: dict[str, str] = {"host": "denoise", "graph": "generate"}  # loop → the graph that it calls
ACTIVE = "denoise_active"  # what the host loop calls instead where not all positions run
CHECK = "check"  # what encodes where drafts are checked
MAX_NEW_TOKENS = 256


class Session:
    """Generates text from a bundle. Use `Session.load`; not for use by several threads at once, but for `cancel`.

    The prefix (prompts and answers so far) stays between generations, and `continue_=True` goes on from it. After a
    generation it holds prompt, tokens, and the stop token if there was one; if not, tokens without padding at their end.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self.manifest = bundle, bundle.manifest
        self.tokenizer = load_tokenizer(bundle)
        self._engine = engine
        self._prefix = Prefix(engine)
        self._loops = Loops(engine)
        self._stops = frozenset(self.manifest.model.eos_token_ids)
        self._busy = threading.Lock()
        self._cancel = threading.Event()
        self._closed = False

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, engine: str | None = None, threads: int | None = None) -> Session:
        """Open a bundle: check every file, read the tokenizer, find the engine. Graphs are loaded on first use.

        Args:
            path: the bundle's folder, or the name of a shipped bundle: tiny.
            engine: onnx or executorch; None takes the first of them that is in the bundle and installed.
            threads: for the engine; None leaves it to the engine.
        Raises:
            BundleError, EngineError, TokenizerError, UsageError.
        """
        if threads is not None and not _is_int(threads, 1, 1024):
            raise UsageError(f"threads {threads!r} must be between 1 and 1024")
        bundle = Bundle.open(path, by_record=True)
        opened = open_engine(bundle, engine, threads)
        memory.check(bundle.manifest, opened.name, path)
        return cls(bundle, opened)

    @property
    def engine(self) -> str:
        return self._engine.name

    @property
    def engine_version(self) -> str:
        return self._engine.version

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """Every token of the prefix, prompts and answers; raises SessionBusy after close."""
        self._check_open()
        return tuple(self._prefix.ids)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
        on_step: Callable[[StepEvent], None] | None = None,
        adaptive: bool = True,
        loop: str = "host",
        settle: float | None = None,
        canvas: int | Literal["auto"] | None = None,
        repair: bool = False,
        speculate: bool = False,
        raw: bool = False,
        trace: bool = False,
        continue_: bool = False,
    ) -> Result:
        """Denoise canvases until a stop token, the limit, the end of the context, or a cancel.

        Args:
            prompt: text, put through the chat template unless `raw`; or ids, taken verbatim.
            max_new_tokens: K; at most ceil(K / N) canvases are denoised.
            seed: of all noise, 0 … 2⁶⁴−1.
            on_step: called after every step (with loop graph, after every canvas for each of its steps). What it
                raises ends the generation and leaves the prefix as it was before the canvas.
            adaptive: stop a canvas early when it is settled; otherwise always run T steps.
            loop: host (one `denoise` call a step) or graph (one `generate` call a canvas); the tokens are the same.
            settle: nats; a position whose entropy falls below leaves the forward, and its token stays. None: every position
                runs in every step, unless `canvas` or `speculate` is given.
            canvas: positions of a canvas's first step; it grows until a stop token is seen. auto: a sixteenth.
            repair: with settle or canvas, run all positions once more before a canvas is committed.
            speculate: take canvases for drafts, and keep what the causal encoder of the same weights would have said, which it
                checks in one pass: the text is that of greedy autoregressive decoding. `ComputePolicy` has more on all four.
            trace: record every step in `Result.trajectory`.
            continue_: go on from the prefix of earlier generations instead of an empty one.
        Raises:
            PromptTooLong, UsageError, TokenizerError, EngineError, SessionBusy.
        """
        if loop not in LOOPS:
            raise UsageError(f"unknown loop {loop!r}; choose one of {', '.join(LOOPS)}")
        if not _is_int(seed):
            raise UsageError(f"seed {seed!r} must be an integer")
        key_from_seed(int(seed))
        compute = ComputePolicy.of(settle=settle, canvas=canvas, repair=repair, speculate=speculate)
        if compute is not None:
            self._check_compute(compute, loop)
        graph = LOOPS[loop] if compute is None else ACTIVE
        with self._exclusive():
            started, native = time.perf_counter(), self._engine.seconds
            run = self._start(prompt, max_new_tokens, raw, continue_, self.manifest.canvas_length)
            self._engine.prepare("encode", graph, *([CHECK] if speculate else []))
            load_s = time.perf_counter() - started
            recorder = TrajectoryRecorder(self.manifest.canvas_length) if trace else None
            prompt_ids = list(self._prefix.ids)

            def steps(index: int, first: int | None) -> Iterator[DenoisingStep]:
                prefix = self._prefix
                if compute is not None:
                    return self._loops.active(prefix, int(seed), index, adaptive, compute, first)
                denoise = self._loops.host if loop == "host" else self._loops.graph
                return denoise(prefix.feeds(graph), prefix.encoded, int(seed), index, adaptive)

            reason = self._denoise_all(run, steps, recorder, on_step, speculate)
            trajectory = recorder.finish(prompt_ids, run.tokens) if recorder else None
            result = self._result(run, reason, loop, load_s, started, native)
        return replace(result, trajectory=trajectory)

    def decode_greedy(self, prompt: str | Sequence[int], *, max_new_tokens: int = MAX_NEW_TOKENS, raw: bool = False) -> Result:
        """Autoregressive baseline: the same weights, one greedy token per call of `decode`. Arguments as in `generate`."""
        with self._exclusive():
            started, native = time.perf_counter(), self._engine.seconds
            run = self._start(prompt, max_new_tokens, raw, False, 1)
            self._engine.prepare("encode", "decode")
            load_s = time.perf_counter() - started
            self._encode(run, keep=1)
            clock = time.perf_counter()
            reason = self._decode_all(run)
            run.denoise_s = time.perf_counter() - clock
            return self._result(run, reason, "decode", load_s, started, native)

    def cancel(self) -> None:
        """End the running generation before its next step; from any thread. The canvas in work is dropped."""
        self._cancel.set()

    def reset(self) -> None:
        """Forget the prefix."""
        self.rewind(0)

    def rewind(self, length: int) -> None:
        """Cut the prefix back to its first `length` tokens; raises UsageError when it has fewer."""
        with self._exclusive():
            if not _is_int(length, 0, len(self._prefix.ids)):
                raise UsageError(f"cannot rewind to {length!r}: the prefix has {len(self._prefix.ids)} tokens")
            self._prefix.truncate(length)

    def close(self) -> None:
        """Free engine and caches; a session that is closed cannot be used again. Raises SessionBusy during a generation."""
        if self._closed:
            return
        with self._exclusive():
            self._closed = True
            self._engine.close()
            del self._prefix

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise SessionBusy("the session is generating; wait for it, cancel it, or load a second session")
        try:
            self._check_open()
            self._cancel.clear()
            yield
        finally:
            self._busy.release()

    def _check_compute(self, compute: ComputePolicy, loop: str) -> None:
        if loop != "host":
            raise UsageError("settle, canvas and speculate need loop host: the fused graph runs every position in every step")
        if isinstance(compute.start, int) and compute.start > self.manifest.canvas_length:
            raise UsageError(f"canvas {compute.start} must be auto, or at most the exported {self.manifest.canvas_length}")
        for graph in (ACTIVE, CHECK)[: 1 + compute.speculate]:
            if graph not in self.manifest.graphs[self._engine.name]:
                options = "settle, canvas and speculate"
                raise UsageError(f"{self.bundle.path}: was exported without {graph!r}; export it again, or leave {options} out")

    def _check_open(self) -> None:
        if self._closed:
            raise SessionBusy("the session is closed; load it again")

    def _start(self, prompt: str | Sequence[int], most: int, raw: bool, continue_: bool, room: int) -> Progress:
        """Check the request and put the prompt into the prefix; nothing changes when something is wrong."""
        if not _is_int(most, 1):
            raise UsageError(f"max_new_tokens {most!r} must be an integer, 1 or more")
        kept = self._prefix.ids if continue_ else []
        ids = self._prompt_ids(prompt, raw, kept)
        if len(kept) + len(ids) + room > self.manifest.context:
            before = f" after {counted(len(kept), 'token')} of conversation" if kept else ""
            raise PromptTooLong(
                f"a prompt of {counted(len(ids), 'token')}{before} leaves no room for {room} more in the context of "
                f"{self.manifest.context}; shorten the prompt, or export with a larger --context"
            )
        if not continue_:
            self._prefix.truncate(0)
        self._prefix.extend(ids)
        return Progress(int(most), self._stops)

    def _prompt_ids(self, prompt: str | Sequence[int], raw: bool, before: Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            if not prompt:
                raise UsageError("the prompt is empty; give some text")
            if self.tokenizer is None:
                raise TokenizerError(f"{self.bundle.path}: has no tokenizer; give the prompt as ids (--prompt-ids)")
            if not raw:
                return chat_ids(self.manifest, self.tokenizer, prompt, before)
            ids = self.tokenizer.encode(prompt)
        else:
            ids = list(prompt)
        vocab = self.manifest.model.vocab_size
        if not ids:
            raise UsageError("the prompt is empty; give at least one token")
        if wrong := [i for i in ids if not _is_int(i, 0, vocab - 1)]:
            raise UsageError(f"prompt id {wrong[0]!r} must be an integer from 0 to {vocab - 1}")
        return [int(i) for i in ids]

    def _denoise_all(
        self, run: Progress, denoise: Callable[[int, int | None], Iterator[DenoisingStep]], recorder: TrajectoryRecorder | None,
        on_step: Callable[[StepEvent], None] | None, speculate: bool,
    ) -> StopReason:  # fmt: skip
        """Canvas after canvas. With `speculate`, each is a draft, and `first` what greedy decoding says next."""
        n, index, first = self.manifest.canvas_length, 0, None
        while len(self._prefix.ids) + n <= self.manifest.context:
            before = len(self._prefix.ids)
            if following := self._encode(run, check=int(speculate)):
                first = following[0]
            clock = time.perf_counter()
            canvas: list[int] | None = None
            if not self._cancel.is_set():
                canvas = self._watch(denoise(index, first), run, index, recorder, on_step)
            run.denoise_s += time.perf_counter() - clock
            if canvas is not None and first is not None:
                canvas, first = self._agreed([first, *canvas[1:]], run)
            if canvas is None:
                return "cancelled"
            run.canvases, index = run.canvases + 1, index + 1
            new, reason = run.accept(canvas)
            self._prefix.truncate(before + len(new))
            self._prefix.extend(new[len(self._prefix.ids) - before :])
            if reason is not None:
                return reason
        return "context"

    def _encode(self, run: Progress, *, keep: int = 0, check: int = 0) -> list[int]:
        """Encode what the prefix lacks, as `Prefix.encode` says."""
        clock, before = time.perf_counter(), self._prefix.encoded
        following = self._prefix.encode(self._cancel.is_set, keep=keep, check=check)
        seconds, positions = time.perf_counter() - clock, self._prefix.encoded - before
        if run.steps == 0:
            run.prefill_s, run.prefill_passes = seconds, positions
        else:
            run.commit_s, run.passes = run.commit_s + seconds, run.passes + positions
        return following

    def _agreed(self, draft: list[int], run: Progress) -> tuple[list[int] | None, int]:
        """How far greedy decoding says what the draft says, encoded, and what it says next; None when cancelled. The draft's
        first token came from greedy decoding, so at least that stays. After a cancel or a failure the prefix is as before."""
        before, draft, same = len(self._prefix.ids), self.visible(draft, stop=True), 0
        self._prefix.extend(draft)
        try:
            following = self._encode(run, check=len(draft))
            if len(following) < len(draft):
                return None, draft[0]
            same = next((i for i in range(1, len(draft)) if draft[i] != following[i - 1]), len(draft))
            return draft[:same], following[same - 1]
        finally:
            self._prefix.truncate(before + same)

    def _watch(
        self, steps: Iterator[DenoisingStep], run: Progress, index: int, recorder: TrajectoryRecorder | None,
        on_step: Callable[[StepEvent], None] | None,
    ) -> list[int] | None:  # fmt: skip
        """Run a canvas and tell of its steps; its last argmax, as far as it has grown, or None when it was cancelled."""
        canvas: Array | None = None
        committed = tuple(run.tokens)
        for number, step in enumerate(steps, 1):
            run.steps += 1
            run.passes += step.rows
            canvas = step.argmax[: step.width]
            if recorder is not None:
                recorder.add(
                    index, step.remaining, float(step.temperature), step.canvas_in, step.argmax, step.entropy,
                    step.accepted, step.canvas_out,
                )  # fmt: skip
            if on_step is not None:
                event = StepEvent(
                    canvas_index=index, step=number, remaining=step.remaining, committed=committed, argmax=step.argmax,
                    canvas=step.canvas_out, entropy=step.entropy, accepted=step.accepted,
                    text=partial(self._text_so_far, committed, canvas),
                )  # fmt: skip
                on_step(event)
            if self._cancel.is_set():
                return None
        return None if canvas is None else canvas.tolist()

    def _decode_all(self, run: Progress) -> StopReason:
        """Greedy decoding; arrays and feeds are reused, so that nearly all time is spent in the engine."""
        prefix, engine = self._prefix, self._engine
        tokens = np.zeros((1, max(1, input_dim(engine, "decode", "tokens", 1)[0])), np.int64)
        start, views, probed = np.zeros(1, np.int64), prefix.feeds("decode"), False
        feeds = {**views, "tokens": tokens, "start": start, "count": np.ones(1, np.int64)}
        while not self._cancel.is_set():
            if prefix.feeds("decode") is not views:
                views = prefix.feeds("decode")
                feeds.update(views)
            tokens[0, 0], start[0] = prefix.ids[-1], prefix.encoded
            out = engine.run("decode", feeds)
            prefix.store(out, 1)
            run.steps += 1
            run.passes += 1
            token = int(out["next_token"][0])
            if token == 0 and not probed:  # the argmax of nothing but NaN; `decode` tells no more
                probed = True
                self._loops.probe(prefix.feeds("denoise"), prefix.encoded, f"token {run.steps}")
            new, reason = run.accept([token])
            prefix.extend(new)
            if reason is not None:
                return reason
            if len(prefix.ids) >= prefix.context:
                return "context"
        return "cancelled"

    def _result(self, run: Progress, reason: StopReason, loop: str, load_s: float, started: float, native: float) -> Result:
        text, pads = self._text(run.tokens), 0
        if reason != "stop":  # a model without a stop token ends its answer with padding
            pad = self.manifest.model.pad_token_id
            pads = next((i for i, token in enumerate(reversed(run.tokens)) if token != pad), len(run.tokens))
            self._prefix.truncate(len(self._prefix.ids) - pads)
        timings = Timings(
            load_s=load_s, prefill_s=run.prefill_s, denoise_s=run.denoise_s, commit_s=run.commit_s,
            total_s=time.perf_counter() - started, engine_s=self._engine.seconds - native,
        )  # fmt: skip
        return Result(
            text=text, tokens=tuple(run.tokens), steps=run.steps, canvases=run.canvases, passes=run.passes,
            prefill_passes=run.prefill_passes, stop_reason=reason, engine=self._engine.name, loop=loop, timings=timings,
            pads=pads,
        )  # fmt: skip

    def visible(self, canvas: Sequence[int] | Array, *, stop: bool = False) -> list[int]:
        """Ids of a canvas [N] before its first stop token, or with `stop` up to it."""
        ids = [int(i) for i in canvas]
        return ids[: next((i + stop for i, token in enumerate(ids) if token in self._stops), len(ids))]

    def _text_so_far(self, committed: Sequence[int], canvas: Array) -> str:
        return self._text([*committed, *self.visible(canvas)])

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids) if self.tokenizer else ""


def _is_int(value: object, low: int | None = None, high: int | None = None) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return False
    number = int(value)
    return (low is None or number >= low) and (high is None or number <= high)
