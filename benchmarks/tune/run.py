"""A bundle is tuned on a user's own questions: half of them choose the options, the other half report what they do.

The optimiser is optuna's (extra `tune`), with its journal in the output folder, from which a killed run goes on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.formats import read_task_file
from dgemma.benchmarks.eval.run import Question, answer, check_lengths, check_text, questions_of
from dgemma.benchmarks.tune.score import FORWARDS, OBJECTIVES, Score, fewest
from dgemma.benchmarks.tune.space import Space
from dgemma.core import machine
from dgemma.core.errors import Param, UsageError
from dgemma.core.generate_options import MAX_NEW_TOKENS, GenerateOptions
from dgemma.core.manifest import read_manifest
from dgemma.core.plural import counted
from dgemma.core.profile import Profile
from dgemma.core.progress import progress
from dgemma.core.scalars import is_int, is_number
from dgemma.runtime.session import Session

if TYPE_CHECKING:
    import optuna

PROFILE, RESULT, JOURNAL = "profile.json", "result.json", "study.journal"
STEP = 20  # questions between two looks at whether a trial has lost already
RANDOM = 12  # trials before the optimiser believes anything
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """What `dgemma tune` was asked for.

    Args:
        tasks: files of questions, as for `dgemma eval`.
        out: folder of profile, result and journal; one that holds a run of the same settings goes on.
        name: of the profile.
        objective: what is to be least, position-forwards or seconds a token.
        trials: choices of options that are tried, all runs together.
        margin: share of right answers that may be lost: the lower bound, at one-sided 95 %, of the paired difference from the
            bundle's own options must be above its negative.
        limit: at most so many questions of each task.
        seed: of the halves, of the choices and of all noise.
    """

    bundle: Path
    tasks: tuple[Path, ...]
    out: Path
    name: str = "tuned"
    objective: str = FORWARDS
    trials: int = 60
    margin: float = 0.02
    limit: int | None = None
    seed: int = 0
    max_new_tokens: int = MAX_NEW_TOKENS
    engine: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"--objective {self.objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
        for name in ("trials", "limit"):
            if (value := getattr(self, name)) is not None and not is_int(value, 1):
                raise UsageError(Param(name), f" {value!r} must be 1 or more")
        if not is_number(self.margin, 0, 1):
            raise UsageError(Param("margin"), f" {self.margin!r} must be above 0 and at most 1")
        if not self.tasks:
            raise UsageError("no questions; give a file with --task")
        GenerateOptions(seed=self.seed, max_new_tokens=self.max_new_tokens)
        Profile(name=self.name, options={})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions in both halves."""

    tuning: Sequence[Question]
    held_out: Sequence[Question]

    @classmethod
    def of(cls, questions: Sequence[Question], seed: int) -> Asked:
        """Every second one of each task, after a shuffle; raises UsageError where a half would be empty."""
        by_task: dict[str, list[Question]] = {}
        for question in questions:
            by_task.setdefault(question.item.task, []).append(question)
        draw = random.Random(seed)
        halves: tuple[list[Question], list[Question]] = ([], [])
        for number, some in enumerate(by_task.values()):
            draw.shuffle(some)
            for i, question in enumerate(some):
                halves[(i + number) % 2].append(question)
        if not all(halves):
            raise UsageError("--task has too few questions; each half needs at least one, and hundreds to show anything")
        for half in halves:
            draw.shuffle(half)  # so that the first questions of a trial are of all tasks
        return cls(tuning=halves[0], held_out=halves[1])

    def check(self, margin: float) -> None:
        """Whether there are enough of them to show that no more than the margin is lost; raises UsageError."""
        if min(len(self.tuning), len(self.held_out)) < (needed := fewest(margin)):
            few = f"--task has {counted(len(self.tuning) + len(self.held_out), 'question')}"
            why = f"too few to show a loss of at most {margin:g} even if no answer changes"
            raise UsageError(f"{few}, {why}; give {2 * needed} or more, or a larger ", Param("margin"))


class Tuning:
    """One run: the questions, the session, the study."""

    def __init__(self, request: TuneRequest, session: Session, asked: Asked, study: optuna.Study, say: Say) -> None:
        self.request, self.session, self.asked, self.study, self.say = request, session, asked, study, say
        manifest, engine = session.manifest, session.engine
        outputs = [spec.name for spec in manifest.graphs[engine]["denoise"].outputs]
        self.space = Space.of(manifest, engine, outputs)
        self.stock = self._stock()

    def score(
        self, options: dict[str, Any], questions: Sequence[Question], lost: Callable[[Score], bool] | None = None
    ) -> Score:
        """Answers of the questions under the options, the first of them alone where the trial has lost by then."""
        profile = Profile(name=self.request.name, options=options)
        request = self.request
        generate = GenerateOptions(
            seed=request.seed, max_new_tokens=request.max_new_tokens, sampler=profile.sampler(), compute=profile.compute()
        )
        rows = []
        for i, question in enumerate(questions, 1):
            rows.append(answer(self.session, question, "diffusion", generate))
            if lost is not None and i % STEP == 0 and lost(Score.of(rows)):
                break
        return Score.of(rows)

    def _stock(self) -> Score:
        """The bundle's own options on the tuning half, once a study."""
        if (kept := self.study.user_attrs.get("stock")) is None:
            self.say(f"the bundle's own options on {len(self.asked.tuning)} questions")
            kept = vars(self.score({}, self.asked.tuning))
            self.study.set_user_attr("stock", kept)
        return Score(**kept)

    def run(self) -> None:
        """The trials that are missing."""
        import optuna

        done = [trial for trial in self.study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        if done:
            self.say(f"continuing after {len(done)} trials")
        for _ in progress(range(len(done), self.request.trials), "tune"):
            trial = self.study.ask()
            options = self.space.draw(trial)
            found = self.score(options, self.asked.tuning, self._has_lost)
            stock = self.stock.first(len(found.right))
            trial.set_user_attr("options", options)
            trial.set_user_attr("n", len(found.right))
            trial.set_constraint("loss", -self.request.margin - found.difference(stock)[1])
            # of the questions that were asked, as a share of the stock's; a trial that has lost early is no better for that
            self.study.tell(trial, found.cost(self.request.objective) / stock.cost(self.request.objective))

    def _has_lost(self, found: Score) -> bool:
        """Whether even the upper bound of the difference is a loss beyond the margin."""
        return found.difference(self.stock.first(len(found.right)))[2] < -self.request.margin

    def best(self) -> dict[str, Any] | None:
        """Options of the least cost among trials of all questions without a loss; None where none costs less than the stock."""
        found: list[tuple[float, dict[str, Any]]] = []
        for trial in self.study.trials:
            is_whole = trial.user_attrs.get("n") == len(self.asked.tuning)
            if trial.value is not None and trial.value < 1 and is_whole and trial.constraints["loss"] <= 0:
                found.append((trial.value, trial.user_attrs["options"]))
        return min(found, key=lambda pair: pair[0])[1] if found else None


def tune(request: TuneRequest, say: Say) -> tuple[dict[str, Any], bool]:
    """Tune, and write profile and result into the output folder.

    Returns:
        the result, JSON types, and whether there is a profile: options that cost less on the questions that they were not
        chosen on, without a loss beyond the margin.
    Raises:
        UsageError, BundleError, EngineError, TokenizerError, PromptTooLong; ModuleNotFoundError without the extra.
    """
    files = [read_task_file(path) for path in request.tasks]
    questions = questions_of(files, (), 0, request.limit)
    asked = Asked.of(questions, request.seed)
    asked.check(request.margin)
    manifest, digest = read_manifest(request.bundle, check_files=False)  # Session.load checks the files
    check_text(manifest, request.bundle)
    with Session.load(request.bundle, engine=request.engine, threads=request.threads) as session:
        check_lengths(session, questions, files)
        settings = {
            "bundle": digest,
            "engine": f"{session.engine} {session.engine_version}",
            "files": [file.sha256 for file in files],
            **{name: getattr(request, name) for name in ("objective", "margin", "limit", "seed", "max_new_tokens", "threads")},
        }
        with _study(request, settings) as study:
            tuning = Tuning(request, session, asked, study, say)
            tuning.run()
            result, profile = _report(tuning, settings)
    report.write_json(request.out / RESULT, result)
    if profile is not None:
        report.write_whole(request.out / PROFILE, profile.to_json().encode())
    return result, profile is not None


def _report(tuning: Tuning, settings: dict[str, Any]) -> tuple[dict[str, Any], Profile | None]:
    """What the best options do on the questions that they were not chosen on."""
    request, options = tuning.request, tuning.best()
    result: dict[str, Any] = {
        "benchmark": "tune",
        "machine": machine.facts(),
        "settings": settings,
        "trials": len(tuning.study.trials),
        "tuning": None,
        "held_out": None,
        "options": options,
        "holds": False,
    }
    if options is None:
        tuning.say("no options that were tried cost less without a loss")
        return result, None
    tuning.say(f"the best options on {len(tuning.asked.held_out)} questions that they were not chosen on")
    own, stock = (tuning.score(some, tuning.asked.held_out) for some in (options, {}))
    figures = own.against(stock)
    result["tuning"] = tuning.score(options, tuning.asked.tuning).against(tuning.stock)
    result["held_out"] = figures
    cheaper = own.cost(request.objective) < stock.cost(request.objective)
    result["holds"] = cheaper and figures["difference"]["low"] >= -request.margin
    evidence = {"held_out": figures, **{k: result[k] for k in ("settings", "machine", "trials")}}
    profile = Profile(name=request.name, options=options, bundle=settings["bundle"], evidence=evidence)
    return result, profile if result["holds"] else None


@contextmanager
def _study(request: TuneRequest, settings: dict[str, Any]) -> Iterator[optuna.Study]:
    """The study in the output folder; raises UsageError where that holds another one, or no study at all."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        request.out.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {request.out}: cannot be made ({error.strerror}); choose another place") from None
    path = request.out / JOURNAL
    if not path.exists() and any(request.out.iterdir()):
        raise UsageError(f"--out {request.out}: holds other files; name a folder that is new or empty")
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        begun = len(storage.get_all_studies()) > 0
        made = storage.get_n_trials(storage.get_all_studies()[0]._study_id) if begun else 0
        sampler = optuna.samplers.TPESampler(seed=request.seed + made, n_startup_trials=RANDOM, multivariate=True)
        study = optuna.create_study(storage=storage, sampler=sampler, study_name="tune", load_if_exists=True)
    except (OSError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UsageError(f"--out {request.out}: {JOURNAL} cannot be read ({why}); name another folder") from None
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", settings)
    elif json.dumps(known, sort_keys=True) != json.dumps(settings, sort_keys=True):
        other = next(name for name in settings if known.get(name) != settings[name])
        raise UsageError(
            f"--out {request.out}: holds a run with another {other}; name another folder, or give the same options"
        )
    yield study
