"""The text of one generation: what its options say about the canvases, where it ends, its events, and its result.

It knows ids and how they read, and nothing of prefixes, engines or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from dgemma.core.errors import Param, TokenizerError, UsageError, listed
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.structure import Structure
from dgemma.runtime.answer import Answer, AnswerReader, why_empty
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.committed_text import CommittedText
from dgemma.runtime.engines.base import Array
from dgemma.runtime.given import Given, from_draft, from_template
from dgemma.runtime.loops import DenoisingStep
from dgemma.runtime.progress import Progress, visible
from dgemma.runtime.result import Result, StepEvent, TextEvent
from dgemma.runtime.steps_told import Watcher
from dgemma.runtime.stop_strings import StopStrings
from dgemma.runtime.structure.choices import normalized
from dgemma.runtime.structure.languages import Languages
from dgemma.runtime.structure.structured import StructuredAnswer
from dgemma.runtime.tokenizer import Tokenizer

OnStep = Callable[[StepEvent], None]
OnText = Callable[[TextEvent], None]


class Teller:
    """Tells of text once it is committed."""

    def __init__(self, written: CommittedText, on_text: OnText) -> None:
        self._written, self._on_text = written, on_text

    def commit(self, tokens: Sequence[int]) -> None:
        """What is new with all of these tokens."""
        self._tell(self._written.more(tokens))

    def end(self, result: Result) -> None:
        """What is left once the answer is whole."""
        self._tell(self._written.rest(result.tokens, answer=Answer(text=result.text, thinking=result.thinking)))

    def _tell(self, event: TextEvent | None) -> None:
        if event is not None:
            self._on_text(event)


class Answering:
    """What one generation says.

    Args:
        reader: None for a bundle without a tokenizer, whose answers have no text.
        inside: whether the prompt ends within a thought.
    Raises:
        TokenizerError: stop strings, without a tokenizer.
    """

    def __init__(
        self, bundle: Bundle, tokenizer: Tokenizer | None, reader: AnswerReader | None, options: GenerateOptions, inside: bool
    ) -> None:
        self._bundle, self._manifest = bundle, bundle.manifest
        self._tokenizer, self._reader, self._options, self._inside = tokenizer, reader, options, inside
        self._ends = frozenset(self._manifest.model.eos_token_ids)
        self.stops = self._stop_strings()
        self._structured: StructuredAnswer | None = None

    def known(
        self, languages: Languages | None, cancelled: Callable[[], bool]
    ) -> tuple[Sequence[Given], StructuredAnswer | None]:
        """What the options say of canvases, and the language that they say the answer is of.

        Args:
            languages: None for a bundle without a tokenizer.
            cancelled: asked while the language is compiled.
        Raises:
            UsageError, TokenizerError, Cancelled.
        """
        return self._given(), self._language(languages, cancelled)

    def _given(self) -> Sequence[Given]:
        """What the options say of canvases; raises UsageError, TokenizerError."""
        options, manifest = self._options, self._manifest
        if options.template is None and options.draft is None:
            return ()
        if self._tokenizer is None:
            raise TokenizerError(
                "this bundle has no tokenizer, which ", *listed(("template", "draft")), " need; leave them out"
            )
        if options.draft is not None:
            return from_draft(manifest, self._tokenizer, options.draft, options.strength)
        given = from_template(manifest, self._tokenizer, str(options.template))
        if (length := sum(known.length or 0 for known in given)) > options.max_new_tokens:
            takes, less = f" takes {length} tokens; ", f" {options.max_new_tokens} is less"
            raise UsageError(Param("template"), takes, Param("max_new_tokens"), less)
        return given

    def _language(self, languages: Languages | None, cancelled: Callable[[], bool]) -> StructuredAnswer | None:
        structure, model = self._options.structure, self._manifest.model
        if structure is None:
            return None
        if languages is None:
            raise TokenizerError(
                f"{self._bundle.path}: has no tokenizer, which ", Param(structure.name), " needs; leave it out"
            )
        if self._inside:
            raise UsageError(
                Param(structure.name), " covers the whole answer, but this prompt ends inside a thought; end the thought"
            )
        if not model.eos_token_ids:
            raise UsageError(Param(structure.name), ": this bundle's model has no stop token, so such an answer could not end")
        self._structured = StructuredAnswer(
            languages.compiled(structure, cancelled),
            structure.name,
            stops=model.eos_token_ids,
            pad=model.pad_token_id,
            vocab=model.vocab_size,
            choices=self._choices(structure),
            is_call=structure.is_call,
        )
        return self._structured

    def _choices(self, structure: Structure) -> Sequence[tuple[int, ...]]:
        """Ids of the choices whose probabilities are wanted; raises UsageError."""
        if not self._options.choice_probabilities or self._tokenizer is None:
            return ()
        found = [tuple(self._tokenizer.encode_user(text)) for text in structure.choices]
        if (most := max(map(len, found))) >= (n := self._manifest.canvas_length):
            long = f" need choices of at most {n - 1} tokens, and one has {most}; leave them out"
            raise UsageError(Param("choice_probabilities"), long)
        return found

    def _choice_probabilities(self, log_probs: Sequence[float]) -> dict[str, float] | None:
        structure = self._options.structure
        return dict(zip(structure.choices, normalized(log_probs), strict=True)) if structure and log_probs else None

    def watcher(self, on_step: OnStep) -> Watcher:
        """Makes an event of every step."""

        def tell(canvas_index: int, number: int, step: DenoisingStep, committed: tuple[int, ...]) -> None:
            canvas = step.argmax[: step.width]
            read = partial(self._read_so_far, committed, canvas)
            event = StepEvent(
                canvas_index=canvas_index,
                step=number,
                remaining=step.remaining,
                committed=committed,
                argmax=step.argmax,
                canvas=step.canvas_out,
                entropy=step.entropy,
                accepted=step.accepted,
                text=lambda: read().text,
                thinking=lambda: read().thinking,
                kinds=lambda: self._kinds([*committed, *visible(canvas, self._ends)]),
            )
            on_step(event)

        return tell

    def teller(self, on_text: OnText) -> Teller | None:
        """None for a bundle without a tokenizer, which has no text."""
        reader, kept = self._reader, None if self.stops is None else self.stops.kept
        if reader is None:
            return None
        return Teller(CommittedText(partial(reader.so_far, inside=self._inside), trims=reader.has_markers, kept=kept), on_text)

    def result(self, run: Progress, engine: str, loop: str, given: Sequence[Given] = ()) -> Result:
        """Of a generation that has ended, by this engine and loop."""
        answer = self._read(run.tokens)
        found = None if self.stops is None else self.stops.found
        if self.stops is not None and found is not None:
            trims = self._reader is not None and self._reader.has_markers
            answer = replace(answer, text=self.stops.text.strip() if trims else self.stops.text)
        calls, structured = len(answer.tool_calls), self._structured
        partial_answer = () if structured is None else structured.warnings(answer.text, calls, run.reason)
        empty = why_empty(answer, run.reason, len(run.tokens), run.pads, found)
        return run.result(
            answer.text,
            engine,
            loop,
            thinking=answer.thinking,
            tool_calls=answer.tool_calls,
            warnings=(*run.warnings, *answer.warnings, *([empty] if empty else []), *partial_answer),
            stop_string=found,
            choice_probabilities=self._choice_probabilities(run.choice_log_probs),
            holes=tuple(self._read(run.tokens[a:b]).text for known in given for a, b in known.holes if run.tokens),
        )

    def _stop_strings(self) -> StopStrings | None:
        if not self._options.stop:
            return None
        if self._reader is None:
            raise TokenizerError("this bundle has no tokenizer, so its answers have no text; leave ", Param("stop"), " out")
        return StopStrings(self._options.stop, partial(self._reader.untrimmed, inside=self._inside))

    def _read_so_far(self, committed: Sequence[int], canvas: Array) -> Answer:
        ids = [*committed, *visible(canvas, self._ends)]
        return self._reader.so_far(ids, inside=self._inside) if self._reader else Answer(text="")

    def _read(self, ids: Sequence[int]) -> Answer:
        return self._reader.read(ids, inside=self._inside) if self._reader else Answer(text="")

    def _kinds(self, ids: Sequence[int]) -> Sequence[str]:
        return self._reader.kinds(ids, inside=self._inside) if self._reader else ["text"] * len(ids)
