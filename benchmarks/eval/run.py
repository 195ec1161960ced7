"""A bundle answers the questions of task files: what is asked, in which order, and the result with its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.answers import RULES, judge
from dgemma.benchmarks.eval.figures import Row, by_task, groups_by_prefix, summarize
from dgemma.benchmarks.eval.formats import TaskFile, read_task_file
from dgemma.benchmarks.eval.items import EvalItem, compose, examples_for
from dgemma.benchmarks.eval.journal import Journal, Key, side_file
from dgemma.core import machine
from dgemma.core.errors import BundleError, Param, PromptTooLong, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.manifest import Manifest, read_manifest
from dgemma.core.plural import counted
from dgemma.core.progress import progress
from dgemma.core.sampler_options import SamplerOptions
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session
from dgemma.runtime.tokenizer import chat_ids

DECODERS = {"diffusion": ("diffusion",), "autoregressive": ("autoregressive",), "both": ("diffusion", "autoregressive")}


class Decoder(Protocol):
    """What evaluation needs of `runtime.Session`; each call starts from an empty prefix."""

    def generate(self, prompt: str, options: GenerateOptions) -> Result: ...

    def decode_greedy(self, prompt: str, *, max_new_tokens: int) -> Result: ...


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What `dgemma eval` was asked for.

    Args:
        tasks, shots: files of questions, and files whose first `num_shots` of a question's task are its solved examples.
        limit: at most so many questions of each task.
        options: of every generation.
        out, resume: where the result goes; the answers are kept beside it, and `resume` goes on from them.
    """

    bundle: Path
    tasks: tuple[Path, ...]
    engine: str | None = None
    threads: int | None = None
    limit: int | None = None
    shots: tuple[Path, ...] = ()
    num_shots: int = 5
    decoder: str = "diffusion"
    options: GenerateOptions = field(default_factory=GenerateOptions)
    out: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("no questions; give a file with --task")
        if len(set(self.tasks)) < len(self.tasks):
            raise UsageError("--task names a file twice; name each once")
        if self.decoder not in DECODERS:
            raise UsageError(f"--decoder {self.decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
        given = (*(() if self.options.compute is None else self.options.compute.given), *self.options.sampler.given)
        if self.decoder == "autoregressive" and given:
            raise UsageError("--decoder autoregressive has no canvases; leave ", Param(given[0]), " out")
        for name in ("limit", "num_shots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} must be 1 or more")
        if self.resume and self.out is None:
            raise UsageError("--resume needs --out, beside which the answers are kept")


@dataclass(frozen=True, kw_only=True)
class Question:
    """An item, where it stands (number of the file, number of the item), and the whole prompt."""

    file: int
    index: int
    item: EvalItem
    prompt: str


def answer(session: Decoder, question: Question, decoder: str, options: GenerateOptions) -> Row:
    """Have a question answered by `diffusion` or `autoregressive`, and judge the answer."""
    if decoder == "diffusion":
        result = session.generate(question.prompt, options)
    else:
        result = session.decode_greedy(question.prompt, max_new_tokens=options.max_new_tokens)
    item, verdict = question.item, judge(question.item, result.text)
    return Row(
        file=question.file,
        index=question.index,
        line=item.line,
        task=item.task,
        decoder=decoder,
        choices=item.choices,
        text=result.text,
        **asdict(verdict),
        tokens=len(result.tokens),
        steps=result.steps,
        canvases=result.canvases,
        position_forwards=result.position_forwards,
        prefill_position_forwards=result.prefill_position_forwards,
        stop_reason=result.stop_reason,
        seconds=result.timings.total_s - result.timings.load_s,
    )


def answers(
    session: Decoder,
    questions: Iterable[Question],
    decoders: Sequence[str],
    options: GenerateOptions,
    *,
    known: Callable[[Key], bool] = lambda _: False,
) -> Iterator[Row]:
    """Answers of each question by each decoder in turn, those that are known left out."""
    for question in questions:
        for decoder in decoders:
            if not known((question.file, question.index, decoder)):
                yield answer(session, question, decoder, options)


def questions_of(files: Sequence[TaskFile], shots: Sequence[TaskFile], num_shots: int, limit: int | None) -> list[Question]:
    """All questions with their prompts, at most `limit` of each task and file.

    Raises:
        UsageError: a shots file has another format than every task file, or holds no example for a question.
    """
    formats = {file.format.name for file in files}
    for file in shots:
        if file.format.name not in formats:
            raise UsageError(f"{file.path}: --shots is of format {file.format.name}, which no --task file has; leave it out")
    questions: list[Question] = []
    for number, file in enumerate(files):
        pool: dict[str, list[EvalItem]] = {}
        for other in shots:
            for example in other.items if other.format.name == file.format.name else ():
                pool.setdefault(example.task, []).append(example)
        counts: dict[str, int] = {}
        for index, item in enumerate(file.items):
            counts[item.task] = counts.get(item.task, 0) + 1
            if limit is not None and counts[item.task] > limit:
                continue
            examples = examples_for(item, pool.get(item.task, ()), num_shots)
            if pool and not examples:
                raise UsageError(f"{file.path}:{item.line}: --shots holds no example of {item.task}; give its file as well")
            prompt = compose(item, file.format.instruction, examples)
            questions.append(Question(file=number, index=index, item=item, prompt=prompt))
    return questions


def check_text(manifest: Manifest, bundle: Path) -> None:
    """Raise BundleError for a bundle that cannot be asked in text."""
    for name, has in (("tokenizer", manifest.tokenizer), ("chat template", manifest.chat)):
        if has is None:
            raise BundleError(f"{bundle}: has no {name}, so it cannot be asked; export a checkpoint folder that has one")


def check_lengths(session: Session, questions: Sequence[Question], files: Sequence[TaskFile]) -> None:
    """Raise PromptTooLong, naming the longest prompt, when one and a canvas exceed the context: before hours of work."""
    manifest, tokenizer = session.manifest, session.tokenizer
    assert tokenizer is not None
    room = manifest.context - manifest.canvas_length
    lengths = [len(chat_ids(manifest, tokenizer, question.prompt, ())) for question in questions]
    if long := [i for i, length in enumerate(lengths) if length > room]:
        worst = max(long, key=lengths.__getitem__)
        question = questions[worst]
        raise PromptTooLong(
            f"{files[question.file].path}:{question.item.line}: its prompt has {lengths[worst]} tokens, and the context of "
            f"{manifest.context} has room for {room} beside a canvas ({len(long)} of "
            f"{counted(len(questions), 'prompt')} too long); give fewer shots, or export with a larger --context"
        )


def evaluate_bundle(request: EvalRequest, say: Callable[[str], None]) -> dict[str, Any]:
    """Ask everything, keep the answers where `out` is given, and return the result, JSON types; `say` gets plain lines.

    Raises:
        UsageError, BundleError, EngineError, TokenizerError, PromptTooLong.
    """
    report.check_out(request.out)
    files, shots = ([read_task_file(path) for path in paths] for paths in (request.tasks, request.shots))
    for file in files:
        tasks = len({item.task for item in file.items})
        say(f"{file.path}: {file.format.name}, {counted(len(file.items), 'question')}, {counted(tasks, 'task')}")
    questions = questions_of(files, shots, request.num_shots, request.limit)
    decoders = DECODERS[request.decoder]
    manifest, digest = read_manifest(request.bundle, check_files=False)  # Session.load checks the files
    check_text(manifest, request.bundle)
    with Session.load(request.bundle, engine=request.engine, threads=request.threads) as session:
        check_lengths(session, questions, files)
        settings = _settings(request, session, files, shots, questions)
        wanted = [(q.file, q.index, decoder) for q in questions for decoder in decoders]
        kept = (
            nullcontext() if request.out is None else Journal(side_file(request.out), settings, wanted, resume=request.resume)
        )
        with kept as journal:
            done = {} if journal is None else journal.rows
            rows = list(done.values())
            left = [q for q in questions if any((q.file, q.index, decoder) not in done for decoder in decoders)]
            for row in answers(session, progress(left, "eval"), decoders, request.options, known=done.__contains__):
                rows.append(row)
                if journal is not None:
                    journal.add(row)
    split = by_task(rows)
    return {
        "benchmark": "eval",
        "machine": machine.facts(),
        "bundle": {"digest": digest, "steps": manifest.steps, "canvas_length": manifest.canvas_length},
        "recipe": manifest.quantization,
        "options": settings,
        "files": [_describe(file) for file in files],
        **summarize(split, groups_by_prefix(split)),
    }


def _settings(
    request: EvalRequest, session: Session, files: Sequence[TaskFile], shots: Sequence[TaskFile], questions: Sequence[Question]
) -> dict[str, Any]:
    """All that decides the answers and their figures; prompts by their hash, so that other templates are other settings."""
    asked = json.dumps([[q.file, q.index, q.prompt, q.item.answer] for q in questions] + [RULES])
    return {
        "bundle": session.bundle.digest,
        "task_files": [file.sha256 for file in files],
        "shots": [file.sha256 for file in shots],
        "num_shots": request.num_shots if shots else 0,
        "limit": request.limit,
        "seed": request.options.seed,
        "max_new_tokens": request.options.max_new_tokens,
        "decoder": request.decoder,
        **({"sampler": _sampler(request.options.sampler)} if request.options.sampler.given else {}),
        "compute": None if request.options.compute is None else asdict(request.options.compute),
        "engine": f"{session.engine} {session.engine_version}",
        "threads": request.threads,
        "prompts": hashlib.sha256(asked.encode()).hexdigest(),
    }


def _sampler(options: SamplerOptions) -> dict[str, Any]:
    """What is not as it was exported, JSON types."""
    return {name: value for name, value in asdict(options).items() if value is not None}


def _describe(file: TaskFile) -> dict[str, Any]:
    rule = file.items[0].rule
    layout = "\n\n".join(part for part in (file.format.instruction, "{examples}", file.format.layout) if part)
    return {
        "name": file.path.name,
        "sha256": file.sha256,
        "format": file.format.name,
        "questions": len(file.items),
        "prompt": layout,
        "rule": RULES[rule],
    }
