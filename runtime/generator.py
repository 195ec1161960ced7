"""Generation in token ids: prefix, canvases, drafts, greedy decoding. One generation at a time.

It knows nothing of text, of threads, or of who cancels: it asks between steps. N canvas.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from dgemma.core.errors import Param, PromptTooLong, UsageError, listed
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.guidance import Guidance
from dgemma.core.plural import counted
from dgemma.core.sampler_options import BANNED, GREEDY, IN_GRAPH
from dgemma.core.scalars import is_int
from dgemma.core.trajectory import TrajectoryRecorder
from dgemma.runtime.cut_draw import Candidates
from dgemma.runtime.engines.base import Engine
from dgemma.runtime.given import Given
from dgemma.runtime.guide import GUIDED, Guide
from dgemma.runtime.loops import ACTIVE, DENOISE, GENERATE, DenoisingStep, Loops, Sampling
from dgemma.runtime.prefix import Prefix, input_dim
from dgemma.runtime.progress import Progress, visible
from dgemma.runtime.result import StopReason
from dgemma.runtime.steps_told import Watcher, also_recorded, logprobs
from dgemma.runtime.structure.structured import StructuredAnswer, StructuredCanvas

CHECK = "check"  # what encodes where drafts are checked
DECODE_TURN = 16  # tokens of greedy decoding in one turn: about as many forwards as a canvas takes
_GRAPHS = {"host": DENOISE, "graph": GENERATE}  # loop → the graph that it calls

# Told of all committed tokens whenever there are more of them.
OnCommit = Callable[[list[int]], None]


class _Cancelled(Exception):
    """Between two steps that are no canvas's."""


class Generator:
    """Generates ids on one engine. `prefix`: what earlier generations left; the caller may cut it back in between.

    Args:
        cancelled: asked before every step, and between the chunks of an encoding.
        between: called between canvases, and as often in greedy decoding; may wait while others use the engine.
    """

    def __init__(self, engine: Engine, cancelled: Callable[[], bool], between: Callable[[], None] = lambda: None) -> None:
        self.prefix = Prefix(engine)
        self._engine, self._cancelled, self._between = engine, cancelled, between
        self._manifest = engine.bundle.manifest
        self._stops = frozenset(self._manifest.model.eos_token_ids)
        self._loops = Loops(engine)

    def progress(self, max_new_tokens: int) -> Progress:
        """Of a generation that begins now."""
        return Progress(most=max_new_tokens, stops=self._stops, started=time.perf_counter(), native_s=self._engine.seconds)

    def is_empty(self, run: Progress) -> bool:
        """Whether a generation came to an end of its own and says nothing but padding or a stop token."""
        pad = self._manifest.model.pad_token_id
        return run.reason != "cancelled" and not run.is_cut and all(token == pad for token in run.tokens)

    def check(self, options: GenerateOptions) -> None:
        """Whether the bundle can do what is asked for; raises UsageError."""
        compute, manifest = options.compute, self._manifest
        self._check_candidates(options)
        if options.guidance is not None and GUIDED not in manifest.graphs[self._engine.name]:
            cure = "use engine onnx; if the bundle is too old, export it again"
            raise UsageError(Param("guidance"), f": this bundle has no {GUIDED!r} for {self._engine.name}; {cure}")
        self._loops.sampling(options.sampler)
        if options.loop == "graph" and (given := options.sampler.given):
            if outside := [name for name in given if name not in IN_GRAPH]:
                none = f": graph {GENERATE!r} returns no candidates"
                raise UsageError(*listed(outside), " cannot be combined with ", Param("loop"), " graph", none, "; use host")
            if lacks := self._loops.lacks():
                old = f"this bundle's graph {GENERATE!r} was exported before it had inputs for ", *listed(given)
                raise UsageError(*old, f" ({', '.join(lacks)}); export it again, or use ", Param("loop"), " host")
        if compute is None:
            return
        width = compute.start_width
        if isinstance(width, int) and width > manifest.canvas_length:
            raise UsageError(Param("start_width"), f" {width} must be auto, or at most the exported {manifest.canvas_length}")
        for graph in (ACTIVE, CHECK)[: 1 + compute.speculate]:
            if graph not in manifest.graphs[self._engine.name]:
                without = f"this bundle was exported without {graph!r}; export it again, or leave "
                raise UsageError(without, *listed(compute.given), " out")

    def _check_candidates(self, options: GenerateOptions) -> None:
        """Whether the graph of a step puts out what the options need; raises UsageError."""
        vocab = self._manifest.model.vocab_size
        bias, least = options.sampler.bias, options.min_tokens
        if bias and (i := bias[-1][0]) >= vocab:
            raise UsageError(Param("logit_bias"), f": id {str(i)[:40]} is outside the vocabulary of {vocab}")
        if len(bias) == vocab and all(value == BANNED for _, value in bias):
            raise UsageError(Param("logit_bias"), " bans every id; leave one")
        ends = {*self._stops, self._manifest.model.pad_token_id}
        if least and len(ends | {i for i, value in bias if value == BANNED}) == vocab:
            raise UsageError(Param("min_tokens"), " leaves only banned ids; ban fewer")
        names = options.sampler.needs_candidates(self._manifest.sampler)
        names += tuple(name for name, given in (("logprobs", options.logprobs is not None), ("min_tokens", least)) if given)
        names += () if options.structure is None else (options.structure.name,)
        if not names or options.loop == "graph":
            return
        graph = DENOISE if options.compute is None else ACTIVE
        most = self._loops.candidates(graph) if graph in self._manifest.graphs[self._engine.name] else 0
        if not most:
            lack = " was supported; export it again" if len(names) == 1 else " were supported; export it again"
            raise UsageError("this bundle was exported before ", *listed(names), lack)
        for name, asked in (("top_k", options.sampler.top_k), ("logprobs", options.logprobs)):
            if asked is not None and asked > most:
                raise UsageError(
                    Param(name), f" {asked} must be at most {most}, the likeliest ids that a step of this bundle gives"
                )
        if options.logprobs is not None and GREEDY in options.sampler.temperatures(self._manifest.sampler):
            certain = " come from the tempered distribution, which is certain at "
            raise UsageError(Param("logprobs"), certain, Param("temperature"), " 0; give a higher one")

    def generate(
        self,
        run: Progress,
        ids: Sequence[int],
        options: GenerateOptions,
        watch: Watcher | None = None,
        on_commit: OnCommit | None = None,
        *,
        kept: int = 0,
        given: Sequence[Given] = (),
    ) -> None:
        """Denoise canvases behind the first `kept` tokens of the prefix and `ids` until a stop token, the limit, the end of the
        context, or a cancel. `given`: what is known of the first of them; a template's are the only ones. A negative prompt of
        the options is ids.

        Raises PromptTooLong, UsageError, EngineError.
        """
        compute, manifest = options.compute, self._manifest
        room = manifest.canvas_length * (1 if options.template is None else len(given))
        self.check_room(len(ids), kept, room)
        self.check_structure(run.structured, len(ids), kept, run.most)
        self.check_negative(options.guidance, room)
        self._begin(ids, kept, room)
        guide = Guide.of(options.guidance, self._engine)
        speculate = compute is not None and compute.speculate
        graph = _GRAPHS[options.loop] if compute is None else ACTIVE
        weighs = run.structured is not None and bool(run.structured.choices)
        self._prepare(run, "encode", graph, *([CHECK] if speculate else []), *([DENOISE] if weighs else []))
        recorder = TrajectoryRecorder(manifest.canvas_length) if options.trace else None
        prompt_ids = list(self.prefix.ids)
        run.reason = self._canvases(run, options, given, also_recorded(watch, recorder), on_commit, guide)
        if recorder is not None:
            run.trajectory = recorder.finish(prompt_ids, run.tokens)
        self._end(run)

    def decode(self, run: Progress, ids: Sequence[int], on_commit: OnCommit | None = None, *, kept: int = 0) -> None:
        """One greedy token behind `ids` per call of `decode`, until as in `generate`, whose errors it raises."""
        self._begin(ids, kept, 1)
        self.prefix.encoded = min(self.prefix.encoded, len(self.prefix.ids) - 1)  # the last token is what the first call reads
        self._prepare(run, "encode", "decode")
        self._encode(run, keep=1)
        clock = time.perf_counter()
        run.reason = self._decode_all(run, on_commit)
        run.denoise_s += time.perf_counter() - clock
        self._end(run)

    def fall_back(self, run: Progress, ids: Sequence[int], on_commit: OnCommit | None = None, *, kept: int = 0) -> None:
        """`decode` in place of the empty answer of `generate`, whose arguments these are; what that took is counted as well."""
        said = "only padding" if run.tokens else "a stop token at once"
        run.warnings.append(f"the canvas gave {said}; this answer is autoregressive")
        run.tokens, run.entropies, run.logprobs, run.pads, run.reason = [], [], [], 0, "cancelled"
        run.native_s = self._engine.seconds - run.native_s
        self.decode(run, ids, on_commit, kept=kept)

    def rewind(self, length: int) -> None:
        """Cut the prefix back to its first `length` tokens; raises UsageError when it has fewer."""
        held = len(self.prefix.ids)
        if not is_int(length, 0, held):
            raise UsageError(f"cannot rewind to {length!r}: the prefix has {held} tokens")
        self.prefix.truncate(length)

    def check_room(self, length: int, kept: int, room: int) -> None:
        """Whether a prompt of `length` behind `kept` tokens leaves room; raises PromptTooLong."""
        context = self._manifest.context
        if kept + length + room > context:
            before = f" after {counted(kept, 'token')} of conversation" if kept else ""
            raise PromptTooLong(
                f"a prompt of {counted(length, 'token')}{before} leaves no room for {room} more in the context of "
                f"{context}; shorten the prompt, or export with a larger --context"
            )

    def check_negative(self, guidance: Guidance | None, room: int) -> None:
        """Whether a negative prompt's ids leave room for so many tokens; raises PromptTooLong."""
        if guidance is None or guidance.negative is None:
            return
        length, context = len(guidance.negative), self._manifest.context
        if length + room > context:
            of = f" of {counted(length, 'token')} leaves no room for {room} more in the context of {context}; shorten it"
            raise PromptTooLong(Param("negative"), of)

    def check_structure(self, structured: StructuredAnswer | None, length: int, kept: int, most: int) -> None:
        """Whether an answer of a language fits behind a prompt of `length` that follows `kept` tokens.

        Raises UsageError, PromptTooLong.
        """
        if structured is not None:
            structured.check(most, self._manifest.canvas_length, self._manifest.context - kept - length)

    def _begin(self, ids: Sequence[int], kept: int, room: int) -> None:
        """Put a prompt into the prefix, behind its first `kept` tokens; nothing changes when it is too long."""
        self.check_room(len(ids), kept, room)
        self.prefix.truncate(kept)
        self.prefix.extend(ids)

    def _prepare(self, run: Progress, *graphs: str) -> None:
        clock = time.perf_counter() if run.steps else run.started
        self._engine.prepare(*graphs)
        run.load_s += time.perf_counter() - clock

    def _end(self, run: Progress) -> None:
        """Times, and the padding in place of a stop token: a model without one ends its answer so."""
        if run.reason != "stop":
            pad = self._manifest.model.pad_token_id
            run.pads = next((i for i, token in enumerate(reversed(run.tokens)) if token != pad), len(run.tokens))
            self.prefix.truncate(len(self.prefix.ids) - run.pads)
        run.native_s = self._engine.seconds - run.native_s

    def _canvases(
        self,
        run: Progress,
        options: GenerateOptions,
        given: Sequence[Given],
        watch: Watcher | None,
        on_commit: OnCommit | None,
        guide: Guide | None = None,
    ) -> StopReason:
        """Canvas after canvas. With `speculate`, each is a draft, and `first` what greedy decoding says next."""
        n, first, prefix = self._manifest.canvas_length, None, self.prefix
        asked, speculate = len(prefix.ids), options.compute is not None and options.compute.speculate
        sampling = self._loops.sampling(options.sampler, wanted=options.logprobs is not None)
        others = [] if guide is None or guide.prefix is None else [guide.prefix]
        while max(len(one.ids) for one in (prefix, *others)) + n <= self._manifest.context:
            if following := self._encode(run, check=int(speculate)):
                first = following[0]
            if run.canvases == 0 and run.structured is not None and run.structured.choices:
                self._weigh_choices(run, run.structured, int(options.seed))
            for other in others:
                self._encode(run, other)
            known = given[run.canvases] if run.canvases < len(given) else None
            room = self._manifest.context - len(prefix.ids)
            path = None if run.structured is None else run.structured.canvas(run.tokens, run.most, n, room)
            clock = time.perf_counter()
            canvas: list[int] | None = None
            last: DenoisingStep | None = None
            if not self._cancelled():
                sampling = sampling._replace(least=max(0, options.min_tokens - len(run.tokens)))
                steps = self._steps(options, sampling, run.canvases, first, known, path, guide)
                last = self._canvas(steps, run, watch)
                canvas = None if last is None else last.argmax[: last.width].tolist()
            run.denoise_s += time.perf_counter() - clock
            if canvas is not None and first is not None:
                canvas, first = self._agreed([first, *canvas[1:]], run)
            if canvas is None:
                return "cancelled"
            run.canvases += 1
            if known is None or known.length is None:
                kept, new, reason = run.accept(canvas)
            else:
                kept, new, reason = run.fill(canvas, known.length, ends=known.ends)
            if not speculate and last is not None:
                run.entropies = [*run.entropies, *last.entropy[: last.width].tolist()][: len(run.tokens)]
                run.logprobs = [*run.logprobs, *logprobs(last, options.logprobs)][: len(run.tokens)]
            prefix.truncate(asked + kept + len(new))
            prefix.extend(new[len(prefix.ids) - asked - kept :])
            for other in others:
                other.extend(new)
            if reason is not None:  # the end of the text is told with the whole answer
                return reason
            if on_commit is not None:
                on_commit(run.tokens)
            self._pause(run)
        return "context"

    def _weigh_choices(self, run: Progress, structured: StructuredAnswer, seed: int) -> None:
        """Log-probabilities of the choices; a cancel is heard between two steps, and leaves none."""
        clock = time.perf_counter()

        def behind(begun: tuple[int, ...]) -> Candidates:
            if self._cancelled():
                raise _Cancelled
            run.position_forwards += self._manifest.canvas_length
            return self._loops.behind(self.prefix, seed, begun)

        with suppress(_Cancelled):
            run.choice_log_probs = structured.choice_log_probabilities(behind)
        run.denoise_s += time.perf_counter() - clock

    def _pause(self, run: Progress) -> float:
        """Let others use the engine, whose seconds do not count here; the seconds that passed."""
        clock, native = time.perf_counter(), self._engine.seconds
        self._between()
        run.native_s += self._engine.seconds - native
        return time.perf_counter() - clock

    def _steps(
        self,
        options: GenerateOptions,
        sampling: Sampling,
        index: int,
        first: int | None,
        given: Given | None,
        structured: StructuredCanvas | None,
        guide: Guide | None,
    ) -> Iterator[DenoisingStep]:
        """The steps of canvas number `index`, as the options say."""
        seed, adaptive, compute = int(options.seed), options.adaptive, options.compute
        if compute is None and options.loop == "graph":
            return self._loops.graph(self.prefix, seed, index, adaptive, sampling)
        if compute is None:
            return self._loops.host(self.prefix, seed, index, adaptive, sampling, given, structured, guide)
        return self._loops.active(self.prefix, seed, index, adaptive, sampling, compute, first, given, structured)

    def _canvas(self, steps: Iterator[DenoisingStep], run: Progress, watch: Watcher | None) -> DenoisingStep | None:
        """Run a canvas and tell of its steps; the last of them, or None when it was cancelled."""
        step: DenoisingStep | None = None
        committed = tuple(run.tokens)
        for number, step in enumerate(steps, 1):
            run.steps += 1
            run.position_forwards += step.rows
            if watch is not None:
                watch(run.canvases, number, step, committed)
            if self._cancelled():
                return None
        return step

    def _encode(self, run: Progress, prefix: Prefix | None = None, *, keep: int = 0, check: int = 0) -> list[int]:
        """Encode what a prefix lacks, the generation's own unless another is given, as `Prefix.encode` says."""
        prefix = prefix or self.prefix
        clock, before = time.perf_counter(), prefix.encoded
        following = prefix.encode(self._cancelled, keep=keep, check=check)
        seconds, positions = time.perf_counter() - clock, prefix.encoded - before
        if run.steps == 0:
            run.prefill_s, run.prefill_position_forwards = run.prefill_s + seconds, run.prefill_position_forwards + positions
        else:
            run.commit_s, run.position_forwards = run.commit_s + seconds, run.position_forwards + positions
        return following

    def _agreed(self, draft: list[int], run: Progress) -> tuple[list[int] | None, int]:
        """How far greedy decoding says what the draft says, encoded, and what it says next; None when cancelled. The draft's
        first token came from greedy decoding, so at least that stays. After a cancel or a failure the prefix is as before."""
        before, draft, same = len(self.prefix.ids), visible(draft, self._stops, stop=True), 0
        self.prefix.extend(draft)
        try:
            following = self._encode(run, check=len(draft))
            if len(following) < len(draft):
                return None, draft[0]
            same = next((i for i in range(1, len(draft)) if draft[i] != following[i - 1]), len(draft))
            return draft[:same], following[same - 1]
        finally:
            self.prefix.truncate(before + same)

    def _decode_all(self, run: Progress, on_commit: OnCommit | None) -> StopReason:
        """Greedy decoding; arrays and feeds are reused, so that nearly all time is spent in the engine."""
        prefix, engine = self.prefix, self._engine
        tokens = np.zeros((1, max(1, input_dim(engine, "decode", "tokens", 1)[0])), np.int64)
        start, views, probed, asked = np.zeros(1, np.int64), prefix.feeds("decode"), False, len(prefix.ids)
        feeds = {**views, "tokens": tokens, "start": start, "count": np.ones(1, np.int64)}
        while not self._cancelled():
            if prefix.feeds("decode") is not views:
                views = prefix.feeds("decode")
                feeds.update(views)
            tokens[0, 0], start[0] = prefix.ids[-1], prefix.encoded
            out = engine.run("decode", feeds)
            prefix.store(out, 1)
            run.steps += 1
            run.position_forwards += 1
            token = int(out["next_token"][0])
            if token == 0 and not probed:  # the argmax of nothing but NaN; `decode` tells no more
                probed = True
                self._loops.probe(prefix, f"token {run.steps}")
            kept, new, reason = run.accept([token])
            prefix.truncate(asked + kept)
            prefix.extend(new)
            if on_commit is not None:
                on_commit(run.tokens)
            if reason is not None:
                return reason
            if len(prefix.ids) >= prefix.context:
                return "context"
            if run.steps % DECODE_TURN == 0:
                run.denoise_s -= self._pause(run)
        return "cancelled"
