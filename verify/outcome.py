"""What verify found about a bundle, for the manifest digest that the file names. It lies beside the bundle, which is shipped
as it was exported; in the bundle, as `verify.json`, it is read where there is none beside it.

It is outside the hashes, so readers take nothing in it for granted. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import dgemma
from dgemma.core.errors import UsageError

FILE = "verify.json"
FORMAT = 2
SECTIONS = ("ladder", "float")  # the golden prompts by backend; the float model on many prompts, by engine
_MAX_BYTES = 8 << 20


def place(bundle: Path) -> Path:
    """Where verify writes: NAME.dgemma.verify.json beside NAME.dgemma."""
    folder = bundle.resolve()
    return folder.with_name(f"{folder.name}.{FILE}")


def read(bundle: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The bundle's values, or None; and what is wrong with the file, if it is there and cannot be used."""
    beside = place(bundle)
    return read_file(beside if beside.exists() or beside.is_symlink() else bundle / FILE)


def read_file(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The same for a file of any name."""
    if not path.exists() and not path.is_symlink():
        return None, None
    damaged = f"{path}: is damaged; run `dgemma verify` again"
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None, damaged
        values = json.loads(path.read_text(encoding="utf-8"))
        format_version = values["format"]
        if isinstance(format_version, int) and format_version > FORMAT:
            return None, f"{path}: format {format_version} is newer than {FORMAT}; upgrade dgemma"
        if format_version == 1:
            return None, f"{path}: was written by an older dgemma; run `dgemma verify` again"
        right = format_version == FORMAT and isinstance(values["digest"], str) and isinstance(values["passed"], bool)
        if not right or not all(_is_section(values.get(name, {})) for name in SECTIONS):
            return None, damaged
    except OSError as error:
        return None, f"{path}: cannot be read ({error.strerror}); check its permissions"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, damaged
    return values, None


def _is_section(values: object) -> bool:
    """Engine → what was found, each with whether it passed."""
    return isinstance(values, dict) and all(isinstance(v, dict) and isinstance(v.get("passed"), bool) for v in values.values())


def circumstances(engine: str, engine_version: str) -> dict[str, Any]:
    """When and with what an outcome was found: `date`, `tools` (name → version) and `machine`."""
    library = {"onnx": "onnxruntime"}.get(engine, engine)
    found = {"dgemma": dgemma.__version__, "python": platform.python_version(), library: engine_version}
    for name in ("numpy", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {"date": datetime.now(UTC).date().isoformat(), "tools": found, "machine": platform.machine()}


def merged(bundle: Path, digest: str, found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """What the file should say now: section → engine or backend → figures; the rest kept if it is of the same digest.

    A ladder is one whole, and replaces the one before.
    """
    before, _ = read(bundle)
    kept = {name: before.get(name, {}) for name in SECTIONS} if before and before["digest"] == digest else {}
    sections = {**kept, **found}
    if "float" in found:
        sections["float"] = {**kept.get("float", {}), **found["float"]}
    passed = all(v["passed"] for engines in sections.values() for v in engines.values())
    return {"format": FORMAT, "digest": digest, "passed": passed, **{k: v for k, v in sorted(sections.items()) if v}}


def write(bundle: Path, values: dict[str, Any]) -> None:
    """Write beside the file and rename; raises UsageError naming it when that cannot be."""
    path = place(bundle)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        cure = "make the folder that holds the bundle writable"
        raise UsageError(f"{path}: cannot be written ({reason}), so the result is not kept; {cure}") from None
    finally:
        with contextlib.suppress(OSError):  # a folder that takes no new files holds none of ours
            temporary.unlink(missing_ok=True)


def lines(values: dict[str, Any], digest: str) -> list[str]:
    """A few lines for people; an outcome for another digest is said to be so, and nothing else of it is shown."""
    if values["digest"] != digest:
        return [f"verify        none: the result is for another bundle ({values['digest'][:12]}…); run `dgemma verify` again"]
    shown = [f"verify        {'passed' if values['passed'] else 'FAILED'}"]
    for section in SECTIONS:
        for engine, found in values.get(section, {}).items():
            name = "golden prompts" if section == "ladder" else f"against {found.get('reference', 'float')}"
            forced = ", not the bundle's checkpoint" if found.get("other_checkpoint") else ""
            result = "passed" if found["passed"] else "FAILED"
            asked = found.get("prompts")
            count = f", {asked.get('count')} prompts" if isinstance(asked, dict) else ""
            shown.append(f"  {engine}, {name}: {result} ({found.get('date', 'no date')}{count}{forced})")
            checks = found.get("checks")
            for check in checks if isinstance(checks, list) else []:
                if isinstance(check, dict):
                    mark = "" if check.get("passed") else "  MISSED"
                    shown.append(f"    {check.get('name')}: {_number(check.get('value'))} (limit {check.get('limit')}){mark}")
    return shown


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "not a number"
