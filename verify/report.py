"""The ladder and the comparison with the float model as pictures and one self-contained page: no scripts, no network."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
from dgemma.verify import outcome
from dgemma.verify.text_report import LADDER_HEADER, ladder_outcome, ladder_rows, number, outcome_lines

if TYPE_CHECKING:
    from dgemma.verify.plots import RecipePoint

Found = Mapping[str, Mapping[str, Any]]  # engine, or label → figures of `against_float`

PAGE, ACCURACY, LADDER = "report.html", "accuracy.png", "ladder.png"
_OWN = ("agreement-onnx.png", "agreement-executorch.png", "entropy-onnx.png", "entropy-executorch.png", ACCURACY, LADDER, PAGE)
_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } img { max-width: 100%; height: auto; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
.outcome { padding: .6rem 1rem; border-radius: 4px; margin: .5rem 0; font-weight: 600; }
.passed { background: #e3f3e6; color: #14532d; } .missed { background: #fbe4e1; color: #7f1d1d; }
footer { margin-top: 2.5rem; color: #666; font-size: .85rem; overflow-wrap: anywhere; }
"""


def check_folder(folder: Path) -> None:
    """Raises UsageError, before any work, when the report could not be written there, or drawn at all."""
    if util.find_spec("matplotlib") is None:
        raise UsageError(f"--report needs package 'matplotlib'; {pip_install('bench')}")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--report {folder}: is a file; name a folder")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"--report {folder}: its folder {folder.absolute().parent} does not exist; make it first")
    for name in _OWN:
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UsageError(f"--report {path}: is in the way and is not a plain file; move it or choose another folder")
    if not os.access(folder if folder.exists() else folder.absolute().parent, os.W_OK):
        raise UsageError(f"--report {folder}: cannot be written; choose another folder")


def read_others(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Comparisons of other bundles by label, from what verify kept of them; raises UsageError naming the file."""
    others: dict[str, dict[str, Any]] = {}
    for path in paths:
        values, problem = outcome.read(path) if path.is_dir() else outcome.read_file(path)
        if values is None or not values.get("float"):
            problem = problem or f"{path}: holds no comparison with a float model; verify that bundle first"
            raise UsageError(f"--compare {problem}")
        for engine, found in values["float"].items():
            _check_figures(found, path)
            label = f"{found['recipe']}, {engine}"
            others[label if label not in others else f"{label}, {path}"] = found
    return others


def _check_figures(found: Mapping[str, Any], path: Path) -> None:
    """What a picture needs; a file that was edited may lack it."""
    try:
        for exact in (found["free_running"]["exact_match"] or {}).values():
            for key in ("value", "low", "high", "mean_steps"):
                float(exact[key])
        str(found["recipe"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(f"--compare {path}: is damaged; run `dgemma verify` on that bundle again") from None


def write(folder: Path, name: str, found: Found, others: Found, ladder: Found | None = None) -> list[Path]:
    """Draw and write; files of the report that are there already are replaced, all else is left alone.

    Args:
        name: of the bundle.
        found: engine → figures, as in the section `float` of verify.json.
        others: label → figures of other bundles, from `read_others`.
        ladder: backend → figures, as in the section `ladder`.
    Returns:
        the files written.
    Raises:
        UsageError: a file cannot be written.
    """
    from dgemma.verify import plots

    files: dict[str, bytes] = {}
    ladder = ladder or {}
    if any("nearest" in values for values in ladder.values()):
        files[LADDER] = plots.ladder(f"{name}: every backend against the one above", ladder)
    for engine, values in found.items():
        title = f"{values['recipe']} on {engine} against float, teacher-forced"
        if values["teacher_forced"]["by_step"]:
            files[_picture("agreement", engine)] = plots.agreement(title, values["teacher_forced"], values["max_steps"])
            files[_picture("entropy", engine)] = plots.entropy(title, values["teacher_forced"], values["max_steps"])
    points = _points(found, others)
    if points:
        reference = next(v["free_running"]["exact_match"]["float"] for v in found.values() if v["free_running"]["exact_match"])
        files[ACCURACY] = plots.accuracy("Exact match against steps, held-out prompts", reference, points)
    files[PAGE] = page(name, found, others, ladder, files).encode()
    try:
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            temporary = folder / f".{file}.{os.getpid()}"
            try:
                temporary.write_bytes(content)
                os.replace(temporary, folder / file)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--report {folder}: cannot be written ({error.strerror}); choose another folder") from None
    return [folder / file for file in files]


def _picture(kind: str, engine: str) -> str:
    """A file's name: agreement-onnx-qnn-emulated.png."""
    return f"{kind}-{re.sub('[^a-z0-9]+', '-', engine).strip('-')}.png"


def _points(found: Found, others: Found) -> list[RecipePoint]:
    from dgemma.verify.plots import RecipePoint

    mine = {f"{v['recipe']}, {engine}": v for engine, v in found.items()}
    both = {**mine, **{(f"{k} (compared)" if k in mine else k): v for k, v in others.items()}}
    exact = {label: v["free_running"]["exact_match"] for label, v in both.items()}
    return [RecipePoint(label=label, exact=figures) for label, figures in exact.items() if figures]


def page(name: str, found: Found, others: Found, ladder: Found, images: Mapping[str, bytes]) -> str:
    """The HTML page; `images` are PNG bytes by file name."""
    parts = [f"<h1>{escape(name)}, verified</h1>", *_ladder(name, ladder, images)]
    for engine, values in found.items():
        kind = "passed" if values["passed"] else "missed"
        parts += [f'<p class="outcome {kind}">{escape(line)}</p>' for line in outcome_lines(name, engine, values)]
        if values.get("other_checkpoint"):
            text = f"{values['checkpoint']['name']} is not the checkpoint that this bundle was made from."
            parts.append(f'<p class="outcome missed">{escape(text)}</p>')
    if ACCURACY in images:
        caption = (
            "Exact match on held-out prompts against what it costs: further left is faster, further up is better. "
            "Bars are 95 % intervals; points that would hide one another are drawn side by side."
        )
        parts += ["<h2>Accuracy against steps</h2>", f"<p>{caption}</p>", _image(ACCURACY, images)]
    parts += [_accuracy_table(found, others)] if found else []
    for engine, values in found.items():
        parts.append(f"<h2>By denoising step, {escape(engine)}</h2>")
        parts.append("<p>Every step of the artifact is fed what the float model's step read.</p>")
        parts += [_image(n, images) for n in (_picture("agreement", engine), _picture("entropy", engine)) if n in images]
        parts += [_checks(values), _forced(values["teacher_forced"]), _tasks(values["free_running"])]
    parts.append(f"<footer>{'<br>'.join(escape(_facts(e, v)) for e, v in found.items())}</footer>")
    meta = f'<meta charset="utf-8"><title>{escape(name)}</title><style>{_CSS}</style>'
    return f'<!doctype html><html lang="en"><head>{meta}</head>' + "<body>" + "\n".join(parts) + "</body></html>\n"


def _ladder(name: str, ladder: Found, images: Mapping[str, bytes]) -> list[str]:
    if not ladder:
        return []
    kind = "passed" if all(v["passed"] for v in ladder.values()) else "missed"
    parts = [f'<p class="outcome {kind}">{"<br>".join(escape(line) for line in ladder_outcome(name, ladder))}</p>']
    parts.append("<h2>The ladder</h2><p>The same prompts and noise on every backend; errors of steps on the same inputs.</p>")
    parts += [_image(LADDER, images)] if LADDER in images else []
    near = {backend: values["nearest"] for backend, values in ladder.items() if "nearest" in values}
    reasons = [(backend, v["name"], v["tolerance"]["reason"]) for backend, v in near.items()]
    return [*parts, _table(LADDER_HEADER, ladder_rows(ladder)), _table(["backend", "against", "what may differ"], reasons)]


def _image(name: str, images: Mapping[str, bytes]) -> str:
    data = base64.b64encode(images[name]).decode()
    return f'<img alt="{escape(name.removesuffix(".png"))}" src="data:image/png;base64,{data}">'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cells(kind: str, row: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(str(cell))}</{kind}>" for cell in row) + "</tr>"

    return "<table>" + cells("th", header) + "".join(cells("td", row) for row in rows) + "</table>"


def _accuracy_table(found: Found, others: Found) -> str:
    rows = []
    for label, values in [*((f"{v['recipe']}, {e}", v) for e, v in found.items()), *others.items()]:
        free = values["free_running"]
        inflation = free["step_inflation"]
        interval = f"{inflation['value']:.3f} ({inflation['low']:.3f} … {inflation['high']:.3f})"
        exact = free["exact_match"] or {}
        cells = [_share(exact.get(name)) for name in ("float", "artifact", "autoregressive")]
        rows.append([label, *cells, interval, f"{free['equal_trajectories']} of {free['prompts']}"])
    header = ["recipe, engine", "float", "artifact", "autoregressive", "step inflation (95 %)", "equal trajectories"]
    return _table(header, rows)


def _share(exact: Mapping[str, Any] | None) -> str:
    return f"{exact['value']:.1%} ({exact['low']:.1%} … {exact['high']:.1%})" if exact else "no answers"


def _checks(values: Mapping[str, Any]) -> str:
    rows = [(c["name"], number(c["value"], ".4g"), f"{c['limit']:g}", "yes" if c["passed"] else "no") for c in values["checks"]]
    return _table(["figure", "value", "limit", "holds"], rows)


def _forced(forced: Mapping[str, Any]) -> str:
    def spread(name: str, values: Mapping[str, float | None] | None) -> list[str]:
        return [name, *(number((values or {}).get(key)) for key in ("mean", "p99", "max"))]

    rows = [spread("KL, nats", forced["kl"]), spread("entropy error, nats", forced["entropy_error"])]
    flips, db = forced["flips"], forced["sqnr_db"]
    more = [
        ("same argmax", number(forced["same_argmax"], ".3%")),
        ("accepted positions, Jaccard", number(forced["jaccard"], ".4f")),
        ("argmax flips: all, near-ties, close", f"{flips['count']}, {flips['near_ties']}, {flips['close']}"),
        *((f"SQNR {name.replace('_', ' ')}, dB", number(value, ".1f")) for name, value in db.items()),
    ]
    return _table(["error by position", "mean", "99 %", "max"], rows) + _table(["agreement", "value"], more)


def _tasks(free: Mapping[str, Any]) -> str:
    names = ("n", "float", "artifact", "autoregressive")
    rows = [(task, *(str(counts[name]) for name in names)) for task, counts in free["tasks"].items()]
    differences = [
        (rule, str(d["count"]), str(d["near_ties"]), str(d["close"]), number(d["median_margin"]), number(d["largest_margin"]))
        for rule, d in free["differences"]["by_rule"].items()
    ]
    tables = _table(["task, answers right", *names], rows) if rows else ""
    if differences:
        header = ["first difference by rule", "count", "near-ties", "close", "median margin", "largest margin"]
        tables += _table(header, differences)
    return tables


def _facts(engine: str, values: Mapping[str, Any]) -> str:
    checkpoint = values["checkpoint"]
    sums = ", ".join(f"{name} sha256 {sha256[:12]}…" for name, sha256 in checkpoint["files"].items())
    tools = json.dumps(values["tools"]).strip("{}").replace('"', "")
    return f"{engine}: {values['date']}; {tools}; {values['machine']}; float checkpoint {checkpoint['name']} ({sums})"
