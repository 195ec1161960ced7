"""A session: one bundle on one engine, one prefix, one generation at a time, in text.

It knows nothing of canvases and steps (generator), of how a graph is run (engines), of tokenizer formats, or of terminals.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, Unpack

from dgemma.core.accelerators import AUTO
from dgemma.core.errors import Cancelled, Param, SessionBusy, SessionClosed, UsageError
from dgemma.core.generate_options import AUTOREGRESSIVE, MAX_NEW_TOKENS, GenerateKeywords, GenerateOptions
from dgemma.core.messages import Message
from dgemma.core.scalars import is_int
from dgemma.runtime import memory
from dgemma.runtime.answer import AnswerReader
from dgemma.runtime.answering import Answering, OnStep, OnText
from dgemma.runtime.ban import with_bans
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.decoder_choice import DecoderChoice, choose_decoder
from dgemma.runtime.engines import open_engine
from dgemma.runtime.engines.base import Array, Engine
from dgemma.runtime.generator import Generator, OnCommit
from dgemma.runtime.given import Given
from dgemma.runtime.progress import Progress, visible
from dgemma.runtime.prompt import Prompts
from dgemma.runtime.result import Result, StepEvent, TextEvent
from dgemma.runtime.samples import Samples, check_several
from dgemma.runtime.steps_told import Watcher
from dgemma.runtime.stream import iterate
from dgemma.runtime.structure.languages import Languages
from dgemma.runtime.tokenizer import Tokenizer, load_tokenizer
from dgemma.runtime.turns import Place, Turns

MOST_SAMPLES = 1000
Messages = Sequence[Message | Mapping[str, Any]] | None


class Session:
    """Generates text from a bundle. Use `Session.load`; not for use by several threads at once, but for `cancel`.

    The prefix (prompts and answers so far) stays between generations, and `continue_=True` goes on from it. After a
    generation it holds prompt, tokens, and the stop token if there was one; if not, tokens without padding at their end.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, *, turns: Turns | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        self.bundle, self.manifest = bundle, bundle.manifest
        self.tokenizer = load_tokenizer(bundle) if tokenizer is None else tokenizer
        roles = self.manifest.chat.roles if self.manifest.chat else None
        self.reader: AnswerReader | None = None
        self._languages: Languages | None = None
        if self.tokenizer is not None:
            self.reader = AnswerReader(self.tokenizer, roles)
            self._languages = Languages(self.tokenizer, self.manifest.model.vocab_size, roles.tools if roles else None)
        self._prompts = Prompts(bundle, self.tokenizer)
        self._engine = engine
        self._stops = frozenset(self.manifest.model.eos_token_ids)
        self._busy = threading.Lock()
        self._cancel = threading.Event()
        self._turns = turns or Turns()
        self._place: Place | None = None
        self._generator = Generator(engine, self._cancel.is_set, self._pass_on)
        self._closed = False
        self._sharing = {self}  # the sessions of this engine

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        engine: str | None = None,
        threads: int | None = None,
        turns: Turns | None = None,
        target: str = AUTO,
    ) -> Session:
        """Open a bundle: check every file, read the tokenizer, find the engine. Graphs are loaded on first use.

        Args:
            path: the bundle's folder, or the name of a shipped bundle: tiny.
            engine: onnx or executorch; None takes the first of them that is in the bundle and installed.
            threads: for the engine; None leaves it to the engine.
            turns: shared by sessions whose generations are to take turns; None: only those that `another` makes share.
            target: cpu, qnn (a Snapdragon's NPU; on x86-64 its emulator, with a warning), or auto, which takes an NPU where the
                bundle has contexts for it and this machine has one.
        Raises:
            BundleError, EngineError, TokenizerError, UsageError.
        """
        if threads is not None and not is_int(threads, 1, 1024):
            raise UsageError(Param("threads"), f" {threads!r} must be between 1 and 1024")
        bundle = Bundle.open(path, by_record=True)
        opened = open_engine(bundle, engine, threads, target)
        memory.check(bundle.manifest, opened.name, path)
        return cls(bundle, opened, turns=turns)

    def another(self, keep: int = 0) -> Session:
        """A second conversation on the same engine, with a prefix of its own: a copy of the first `keep` tokens of this one's.
        Their generations, each in a thread, take turns, a canvas each; the last closed frees the engine. Raises SessionBusy.
        """
        with self._exclusive() if keep else nullcontext():
            self._check_open()
            other = Session(self.bundle, self._engine, turns=self._turns, tokenizer=self.tokenizer)
            other._generator.prefix.copy(self._generator.prefix, keep)
        other._sharing, other._languages = self._sharing, self._languages
        self._sharing.add(other)
        return other

    @property
    def engine(self) -> str:
        return self._engine.name

    @property
    def label(self) -> str:
        """The engine, and the accelerator that it runs on, where there is one."""
        return self._engine.label

    @property
    def engine_version(self) -> str:
        return self._engine.version

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """Every token of the prefix, prompts and answers; raises SessionClosed after close."""
        self._check_open()
        return tuple(self._generator.prefix.ids)

    def reusable(self, ids: Sequence[int] | None = None) -> int:
        """How many tokens of the prefix a prompt of `ids`, or any, can go on from and get the answer that it gets alone."""
        return self._generator.prefix.whole_chunks if ids is None else self._generator.prefix.reusable(ids)

    def generate(
        self,
        prompt: str | Sequence[int] | None = None,
        options: GenerateOptions | None = None,
        *,
        messages: Messages = None,
        on_step: OnStep | None = None,
        on_text: OnText | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Result:
        """Denoise canvases until a stop token, the limit, the end of the context, or a cancel.

        Args:
            prompt: text, put through the chat template unless `raw`; or ids, taken verbatim.
            options: how; None: as the keywords say.
            messages: in place of `prompt`, a whole conversation: messages, or objects with `role` (system, developer, user,
                assistant or tool) and `content`; with `tool_calls`, `tool_call_id`, `name` and `thinking` where they belong.
            on_step: called after every step (with loop graph, after every canvas for each of its steps). What it
                raises ends the generation and leaves the prefix as it was before the canvas.
            on_text: called with what is new of the text, and of thoughts, whenever a canvas (with decoder autoregressive, a
                token) is committed. What it raises ends the generation; the prefix holds what was committed.
            keywords: in place of `options`: those of `GenerateOptions.of`.
        Raises:
            PromptTooLong, UsageError, TokenizerError, EngineError, SessionBusy, SessionClosed.
        """
        options = self._options(options, keywords)
        with self._exclusive():
            run = self._generator.progress(int(options.max_new_tokens))
            options, ids, kept = self._read(prompt, messages, options)
            return self._answer(run, ids, kept, options, on_step, on_text)

    def sample(
        self,
        prompt: str | Sequence[int] | None = None,
        options: GenerateOptions | None = None,
        *,
        n: int,
        messages: Messages = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Samples:
        """`generate` n answers to one prompt, which is encoded once: with the seed of the options, the next one, and so on.
        Afterwards the prefix ends with the prompt. A cancel ends it with the answer in work.

        Raises:
            UsageError: also for decoder autoregressive, whose answers are all the same; otherwise as `generate`.
        """
        options = self._options(options, keywords)
        if not is_int(n, 1, MOST_SAMPLES):
            raise UsageError(Param("n"), f" {n!r} must be between 1 and {MOST_SAMPLES}")
        check_several(options)
        results: list[Result] = []
        with self._exclusive():
            options, ids, kept = self._read(prompt, messages, options)
            asked = kept + len(ids)
            while len(results) < n and not (results and results[-1].stop_reason == "cancelled"):
                run = self._generator.progress(int(options.max_new_tokens))
                seeded = replace(options, seed=(int(options.seed) + len(results)) % (1 << 64))
                new = ([], asked) if results else (ids, kept)
                results.append(self._answer(run, *new, seeded, None, None))
                self._generator.rewind(min(asked, len(self._generator.prefix.ids)))  # a cancelled one may not have begun
        return Samples(results=tuple(results))

    def _answer(
        self, run: Progress, ids: Sequence[int], kept: int, options: GenerateOptions,
        on_step: OnStep | None, on_text: OnText | None,
    ) -> Result:  # fmt: skip
        """`generate` behind the first `kept` tokens of the prefix and `ids`."""
        answering = self._answering([*self._generator.prefix.ids[:kept], *ids], options)
        run.cut = answering.stops
        try:
            given, run.structured = answering.known(self._languages, self._cancel.is_set)
        except Cancelled:  # while a structure was compiled, before the prefix has changed
            run.native_s = 0.0
            return answering.result(run, self._engine.label, options.loop)
        tell = None if on_text is None else answering.teller(on_text)
        watch = None if on_step is None else answering.watcher(on_step)
        with self._turn(run):
            loop = self._run(run, ids, kept, options, given, watch, None if tell is None else tell.commit)
        result = answering.result(run, self._engine.label, loop, given)
        if tell is not None:
            tell.end(result)
        return result

    def _options(self, options: GenerateOptions | None, keywords: GenerateKeywords) -> GenerateOptions:
        """The options that were given, or those that the keywords say; raises UsageError for both."""
        if options is not None and keywords:
            raise UsageError(f"give options, or keywords such as {next(iter(keywords))}, not both")
        return with_bans(options or GenerateOptions.of(**keywords), self.tokenizer, self.bundle)

    def _read(
        self, prompt: str | Sequence[int] | None, messages: Messages, options: GenerateOptions
    ) -> tuple[GenerateOptions, list[int], int]:
        """The options with the ids of their negative prompt, what to append, and behind how many tokens of the prefix."""
        self._generator.check(options)
        ids, kept = self._prompts.ids(prompt, messages, options, self._generator.prefix.ids)
        return self._prompts.with_negative(options, messages), ids, kept

    def _answering(self, prompt: Sequence[int], options: GenerateOptions) -> Answering:
        """The text of a generation behind all of `prompt`."""
        inside = self.reader is not None and self.reader.opens_inside(prompt)
        return Answering(self.bundle, self.tokenizer, self.reader, options, inside)

    def prompt_ids(
        self,
        prompt: str | Sequence[int] | None = None,
        options: GenerateOptions | None = None,
        *,
        messages: Messages = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[int, ...]:
        """Ids that `generate` would put into an empty prefix, from any thread; raises what it would raise before its work.

        A structure of the options is compiled, and kept for `generate`; raises Cancelled if `cancelled` says so meanwhile.
        """
        options = self._options(options, {})
        self._check_open()
        self._generator.check(options)
        alone = replace(options, continue_=False) if options.continue_ else options
        ids, _ = self._prompts.ids(prompt, messages, alone, [])
        n = self.manifest.canvas_length
        self._generator.check_room(len(ids), 0, 1 if options.decoder == AUTOREGRESSIVE else n)
        self._generator.check_negative(self._prompts.with_negative(options, messages).guidance, n)
        _, structured = self._answering(ids, options).known(self._languages, cancelled)
        self._generator.check_structure(structured, len(ids), 0, int(options.max_new_tokens))
        return tuple(ids)

    def _run(
        self, run: Progress, ids: Sequence[int], kept: int, options: GenerateOptions,
        given: Sequence[Given], watch: Watcher | None, commit: OnCommit | None,
    ) -> str:  # fmt: skip
        """Generate, and again token by token where that is the fallback of an empty answer; returns `Result.loop`."""
        if options.decoder == AUTOREGRESSIVE:
            self._generator.decode(run, ids, commit, kept=kept)
            return "decode"
        self._generator.generate(run, ids, options, watch, commit, kept=kept, given=given)
        if options.fallback is None or not self._generator.is_empty(run):
            return options.loop
        self._generator.fall_back(run, ids, commit, kept=kept)
        return "decode"

    def infill(
        self,
        template: str,
        /,
        prompt: str | Sequence[int] | None = None,
        *,
        messages: Messages = None,
        on_step: OnStep | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Result:
        """`generate` an answer whose text is given but for holes: "Dear {{8}}, please come to {{12}}." with holes of 8 and 12
        tokens. What is given stays exactly; `Result.holes` is what the model wrote.

        Args:
            template: the answer.
            prompt: what it answers, as in `generate`; with neither this nor `messages`, it answers nothing.
            messages: as in `generate`.
        Raises:
            As `generate`.
        """
        options = replace(GenerateOptions.of(**keywords), template=template)
        return self.generate(prompt, options, messages=messages, on_step=on_step)

    def decode_greedy(self, prompt: str | Sequence[int], *, max_new_tokens: int = MAX_NEW_TOKENS, raw: bool = False) -> Result:
        """Autoregressive baseline, `generate` with that decoder: the same weights, one greedy token per call of `decode`."""
        return self.generate(prompt, GenerateOptions(max_new_tokens=max_new_tokens, raw=raw, decoder=AUTOREGRESSIVE))

    def stream(
        self,
        prompt: str | Sequence[int] | None = None,
        options: GenerateOptions | None = None,
        *,
        messages: Messages = None,
        steps: bool = False,
        **keywords: Unpack[GenerateKeywords],
    ) -> Iterator[TextEvent | StepEvent | Result]:
        """`generate` as an iterator: a `TextEvent` for all that is committed, and at the end the `Result`.

        The generation waits while an event is dealt with, and is cancelled where the iteration is left early. Arguments and
        errors as in `generate`.

        Args:
            steps: whether there is a `StepEvent` for every denoising step, too.
        """
        chosen = self._options(options, keywords)

        def run(tell: Callable[[object], None]) -> Result:
            return self.generate(prompt, chosen, messages=messages, on_step=tell if steps else None, on_text=tell)

        events: Iterator[Any] = iterate(run, self.cancel, self._cancel.clear)
        return events

    def choose_decoder(self, tokens: int = MAX_NEW_TOKENS) -> DecoderChoice:
        """Which decoder would give so many tokens sooner, by measuring a step and a token. Raises EngineError, SessionBusy."""
        with self._exclusive(), self._turn():
            return choose_decoder(self.bundle, self._engine, tokens)

    def cancel(self) -> None:
        """End the running generation before its next step, or where none runs, the next one before its first; from any thread.
        The canvas in work is dropped. A `reset` or `rewind` in between forgets it."""
        self._cancel.set()
        self._turns.wake()

    def reset(self) -> None:
        """Forget the prefix."""
        self.rewind(0)

    def rewind(self, length: int) -> None:
        """Cut the prefix back to its first `length` tokens; raises UsageError when it has fewer."""
        with self._exclusive():
            self._generator.rewind(length)

    def visible(self, canvas: Sequence[int] | Array, *, stop: bool = False) -> list[int]:
        """Ids of a canvas [N] before its first stop token, or with `stop` up to it."""
        return visible(canvas, self._stops, stop=stop)

    def close(self) -> None:
        """Free engine and caches; a session that is closed cannot be used again. Raises SessionBusy during a generation."""
        if self._closed:
            return
        with self._exclusive():
            self._closed = True
            self._sharing.discard(self)
            if not self._sharing:
                self._engine.close()
            del self._generator

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
            yield
        finally:
            self._cancel.clear()
            self._busy.release()

    @contextmanager
    def _turn(self, run: Progress | None = None) -> Iterator[None]:
        """Alone with the engine, but where `_pass_on` is called. What it waited for others is noted in `run`."""
        place = self._place = Place(cancelled=self._cancel.is_set)
        try:
            self._turns.enter(place)
            yield
        finally:
            self._turns.leave(place)
            if run is not None:
                run.waited_s, run.behind = place.waited_s, place.behind

    def _pass_on(self) -> None:
        if self._place is not None:
            self._turns.pass_on(self._place)

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosed("the session is closed; load it again")
