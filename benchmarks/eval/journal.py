"""Answers on disk as they come: a file of JSON lines beside the result, from which a run that was killed goes on.

The first line says what the answers are of (bundle, files, options); the others are `figures.Row`s. It knows nothing of what
the rows mean.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from dgemma.benchmarks.eval.figures import Row
from dgemma.core.errors import UsageError

SUFFIX = ".answers.jsonl"
VERSION = 1
NAMES = {field.name for field in fields(Row)}
CURE = "delete it and leave out --resume to start over"

Key = tuple[int, int, str]  # file, item, decoder


def side_file(out: Path) -> Path:
    """Where the answers of result `out` are kept."""
    return out.with_name(out.name + SUFFIX)


class Journal:
    """The side file of one run, open for appending while the context lasts; `rows` are the answers that it holds.

    Args:
        path: the side file.
        settings: what decides the answers, JSON types; a file with other settings is refused.
        wanted: the questions of this run.
        resume: go on from what is there, or start where nothing is; else the file must not exist.
    Raises:
        UsageError: on entering; one line that names the file.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], wanted: Iterable[Key], *, resume: bool) -> None:
        self.path, self._settings, self._wanted, self._resume = path, dict(settings), set(wanted), resume
        self.rows: dict[Key, Row] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        if not self._resume and self.path.exists():
            raise UsageError(f"{self.path}: holds answers from an earlier run; give --resume to continue, or delete it")
        try:
            self._file = open(self.path, "a+b")
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror}); choose another --out") from None
        try:
            _lock(self._file, self.path)
            self._read(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            kept = f"{len(self.rows)} of {len(self._wanted)} answers are kept in {self.path}"
            print(f"{kept}; to continue, give the same command with --resume", file=sys.stderr, flush=True)

    def add(self, row: Row) -> None:
        """Append one answer; it is in the file when this returns."""
        self._write(asdict(row))
        self.rows[row.file, row.index, row.decoder] = row

    def _write(self, values: Mapping[str, Any]) -> None:
        assert self._file is not None
        try:
            self._file.write(json.dumps(values, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror}); make room, then --resume") from None

    def _read(self, file: BinaryIO) -> None:
        """Take the rows that are there; what a kill left of a last line is cut off."""
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        file.truncate(whole)
        lines = content[:whole].split(b"\n")[:-1]
        if not lines:
            self._write({"version": VERSION, "settings": self._settings})
            return
        self._check_head(self._json(lines[0], 1))
        for number, line in enumerate(lines[1:], 2):
            values = self._json(line, number)
            if values.keys() != NAMES or (key := (values["file"], values["index"], values["decoder"])) not in self._wanted:
                raise UsageError(f"{self.path}:{number}: is not an answer from this run; {CURE}")
            if key in self.rows:
                raise UsageError(f"{self.path}:{number}: answers a question a second time; {CURE}")
            self.rows[key] = Row(**values)

    def _json(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise UsageError(f"{self.path}:{number}: is damaged; {CURE}")
        return values

    def _check_head(self, head: Mapping[str, Any]) -> None:
        settings = head.get("settings")
        if head.get("version") != VERSION or not isinstance(settings, dict):
            raise UsageError(f"{self.path}: is not an answer file of this version; {CURE}")
        other = [name for name in {**self._settings, **settings} if settings.get(name) != self._settings.get(name)]
        if other:
            raise UsageError(f"{self.path}: holds answers with a different {other[0].replace('_', ' ')}; {CURE}")


def _lock(file: BinaryIO, path: Path) -> None:
    """Two runs must not write one file; where there are no such locks, nothing is held."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(f"{path}: another eval is writing to it; wait for it, or choose another --out") from None
