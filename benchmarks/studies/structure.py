"""Answers of a language on tiny: how many are valid, how many right, what they cost; and what they would cost with a vocabulary
of the released model's size.

    python -m dgemma.benchmarks.studies.structure [BUNDLE] [--per-task K] [--engine E] [--threads N] [--out FILE]

Seconds are of the processor, not of the clock, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import read_items
from dgemma.benchmarks.studies.arguments import add_asking, asked, write_out
from dgemma.benchmarks.studies.bundle_facts import bundle_facts
from dgemma.benchmarks.studies.control import Row, figures
from dgemma.benchmarks.studies.synthetic_vocabulary import synthetic
from dgemma.core import machine
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.progress import progress
from dgemma.core.shipped import bundle_path
from dgemma.core.structure import Structure
from dgemma.runtime.session import Session
from dgemma.runtime.structure.languages import byte_automaton
from dgemma.runtime.structure.patience import Patience
from dgemma.runtime.structure.structured import StructuredCanvas
from dgemma.runtime.structure.token_automaton import ByteTree, lift
from dgemma.runtime.structure.viterbi import Canvas, Scores, likeliest

SCHEMAS: dict[str, Any] = json.loads(Path(__file__).with_name("schemas.json").read_text(encoding="utf-8"))
SUMS = """
start: term | start ("+" | "-") term
term: factor | term "*" factor
factor: /[0-9]+/ | "(" start ")"
"""
JSON = """
start: object | array | ESCAPED_STRING | SIGNED_NUMBER | "true" | "false" | "null"
array: "[" [start ("," start)*] "]"
object: "{" [pair ("," pair)*] "}"
pair: ESCAPED_STRING ":" start
%import common (ESCAPED_STRING, SIGNED_NUMBER)
%ignore " "
"""
GRAMMARS = {"sums": Structure(grammar=SUMS), "JSON": Structure(grammar=JSON)}
LANGUAGES = (  # tasks, and what all of their answers are
    ("to_json", Structure(json_schema=SCHEMAS["person"])),
    ("to_json", GRAMMARS["JSON"]),
    ("sudoku", Structure(regex="[1-4]{4}( [1-4]{4}){3}")),
    ("sort_numbers", Structure(regex="[0-9]+( [0-9]+)*")),
    ("add", Structure(regex="[0-9]+")),
    ("spell", Structure(regex="([a-z]-)*[a-z]")),
)
VOCAB, N, K = 262_144, 256, 16  # of the released model; K likeliest ids
EACH = 3  # prompts for every schema and grammar
MOST = 192  # tokens of such an answer


@contextmanager
def clocked(spent: list[float]) -> Iterator[None]:
    """Adds the seconds of every path that is looked for."""
    inner = StructuredCanvas.held

    def held(self: StructuredCanvas, *args: Any) -> Any:
        clock = time.process_time()
        found = inner(self, *args)
        spent.append(time.process_time() - clock)
        return found

    StructuredCanvas.held = held  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        StructuredCanvas.held = inner  # type: ignore[method-assign]


def is_valid(structure: Structure, text: str) -> bool:
    """Whether a text is of a language, by nothing that made it: Python's own expressions, jsonschema, and lark's parser."""
    if structure.grammar is not None:
        from lark import Lark
        from lark.exceptions import LarkError

        try:
            Lark(structure.grammar, lexer="dynamic_complete").parse(text)
        except LarkError:
            return False
        return True
    if structure.json_schema is None:
        return re.fullmatch(str(structure.regex), text) is not None
    import jsonschema

    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(json.loads(str(structure.json_schema)), format_checker=checker)
    try:
        return bool(validator.is_valid(json.loads(text)))
    except ValueError:
        return False


def told(structure: Structure) -> str:
    """A language as a table names it."""
    if structure.regex is not None:
        return f"`{structure.regex}`"
    return "schema `person`" if structure.grammar is None else "grammar `JSON`"


def answered(session: Session, items: Sequence[EvalItem], seed: int) -> list[dict[str, Any]]:
    """Of every task and language: figures without and with it, on the same prompts and noise."""
    found = list[dict[str, Any]]()
    for task, structure in LANGUAGES:
        own = [item for item in items if item.task == task]
        rows: dict[str, list[Row]] = {"free": [], "structured": []}
        valid = {"free": 0, "structured": 0}
        for item in progress(own, task):
            for name, own_structure in (("free", None), ("structured", structure)):
                result = session.generate(item.prompt, GenerateOptions(seed=seed, structure=own_structure))
                rows[name].append(Row(task=task, right=result.text.strip() == item.answer.strip(), steps=result.steps))
                valid[name] += is_valid(structure, result.text.strip() if name == "free" else result.text)
        if own:
            ways = {name: figures(rows[name], rows["free"]) | {"valid": valid[name] / len(own)} for name in rows}
            found.append({"task": task, "language": told(structure), **ways})
    return found


def forced(session: Session, items: Sequence[EvalItem], seed: int, languages: Mapping[str, Structure]) -> dict[str, Any]:
    """Answers of every language, to prompts that ask for nothing of the kind, and processor seconds of their steps."""
    valid, count, steps, spent = 0, 0, 0, list[float]()
    clock = time.process_time()
    with clocked(spent):
        for number, (name, structure) in enumerate(progress(list(languages.items()), "forced")):
            assert session._languages is not None
            before = time.process_time()
            session._languages.compiled(structure)
            clock += time.process_time() - before
            for i in range(EACH):
                item = items[(number * EACH + i) % len(items)]
                options = GenerateOptions(structure=structure, seed=seed + i, max_new_tokens=MOST)
                result = session.generate(item.prompt, options)
                good = is_valid(structure, result.text)
                valid, count, steps = valid + good, count + 1, steps + result.steps
                if not good:
                    print(f"{name}: {result.text}")
    whole = time.process_time() - clock
    return {"answers": count, "valid": valid, "steps": steps, "path_ms": 1e3 * median(spent), "step_ms": 1e3 * whole / steps}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    clock = time.process_time()
    found = work()
    return found, time.process_time() - clock


def costs(seed: int) -> dict[str, Any]:
    """Of every schema and grammar with a synthetic vocabulary: states and edges, processor seconds to compile and for a path
    over N positions, MB. The library's own seconds are those of the clock: outlines-core has a process of its own."""
    vocabulary = synthetic(VOCAB, seed)
    tree, tree_s = timed(lambda: ByteTree(vocabulary.later, vocabulary.rank))
    rng, found = np.random.default_rng(seed), {}
    log_probs = -np.sort(rng.exponential(2.0, (N, K)), 1).astype(np.float32) - 1
    common = np.argsort(vocabulary.rank)[VOCAB // 16 :: VOCAB // 512]
    ids = np.concatenate([rng.choice(common, (N, K // 2)), rng.integers(300, VOCAB, (N, K - K // 2))], 1)
    for name, structure in progress([*schemas().items(), *GRAMMARS.items()], "costs"):
        clock = time.perf_counter()
        automaton = byte_automaton(structure)
        library_s = time.perf_counter() - clock
        lifted, lift_s = timed(partial(lift, automaton, vocabulary, (tree, tree), name, Patience()))
        canvas = Canvas(state=lifted.begin, room=N, after=0, stops=(1, 5), pad=0)
        scores = Scores.of(ids, log_probs, VOCAB)
        paths = [timed(partial(likeliest, lifted, scores, canvas))[1] for _ in range(3)]
        found[name] = {
            "kind": structure.name,
            "states": automaton.states,
            "edges": len(lifted.target),
            "library_s": library_s,
            "lift_s": lift_s,
            "mb": lifted.nbytes / 2**20,
            "path_ms": 1e3 * median(paths),
        }
    return {"vocab": VOCAB, "canvas": N, "candidates": K, "tree_s": tree_s, "tree_mb": tree.nbytes / 2**20, "languages": found}


def schemas() -> dict[str, Structure]:
    return {name: Structure(json_schema=schema) for name, schema in SCHEMAS.items()}


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.structure", description="Answers of a language.")
    parser.add_argument("bundle", nargs="?", type=Path, default=bundle_path("tiny"))
    add_asking(parser, per_task=100)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    items = read_items(options.tasks, options.per_task)
    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        tasks = answered(session, items, options.seed)
        others = {
            kind: forced(session, items, options.seed, languages)
            for kind, languages in (("schemas", schemas()), ("grammars", GRAMMARS))
        }
        facts = bundle_facts(session.bundle)
    result = {
        "benchmark": "structure",
        "machine": machine.facts(),
        "bundle": facts,
        "options": asked(options),
        "tasks": tasks,
        "forced": others,
        "costs": costs(options.seed),
    }
    shown = [
        (
            f"{one['task']}, {one['language']}",
            str(one["free"]["n"]),
            *(f"{one[way][of]:.1%}" for way in ("free", "structured") for of in ("valid", "exact")),
        )
        for one in tasks
    ]
    report.table("Languages", ("task", "n", "free: valid", "exact", "structured: valid", "exact"), shown)
    for kind, one in others.items():
        print(f"{kind}: {one['valid']} of {one['answers']} answers are valid")
    write_out(options.out, result)
    return 0


if __name__ == "__main__":
    report.main(run)
