"""Bundles made from the recipes of `tests/bundles/recipes.json`; what the operations do is said in its README."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from dgemma.core.manifest import MANIFEST, digest

BUNDLES = Path(__file__).parents[1] / "bundles"
BASE: dict[str, Any] = json.loads((BUNDLES / "recipes.json").read_text(encoding="utf-8"))
RECIPES: list[dict[str, Any]] = BASE["recipes"]
OUTSIDE = "outside"  # beside the bundle: where links lead


def make(folder: Path, recipe: dict[str, Any]) -> Path:
    """Make the recipe's bundle at `folder`, which must not exist, and return it."""
    manifest = copy.deepcopy(BASE["manifest"])
    for name, content in BASE["files"].items():
        write(folder / name, content)
        manifest["files"][name] = entry(folder / name)
    base = digest(manifest)
    last = [operation for operation in recipe["do"] if operation[0] in LAST or MANIFEST in operation]
    texts = [operation for operation in recipe["do"] if operation[0] == "text"]
    for verb, *arguments in (operation for operation in recipe["do"] if operation not in [*last, *texts]):
        if verb in JSON_VERBS:
            JSON_VERBS[verb](manifest, *arguments)
        elif verb == "list":
            manifest["files"][arguments[0]] = entry(folder / arguments[0])
        else:
            FILE_VERBS[verb](folder, *arguments)
    text = json.dumps({**manifest, "digest": "DIGEST"})
    for _, old, new in texts:
        assert old in text, old
        text = text.replace(old, new, 1)
    wanted = recipe.get("digest", "right")
    if wanted != "":
        right = digest(json.loads(text)) if wanted != "base" else base
        wanted = right.upper() if wanted == "upper" else right
    (folder / MANIFEST).write_text(text.replace("DIGEST", wanted), encoding="utf-8", newline="")
    for verb, *arguments in last:
        FILE_VERBS[verb](folder, *arguments)
    return folder


def entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def inside(values: Any, path: list[Any]) -> Any:
    for key in path:
        values = values[key]
    return values


def put(manifest: dict[str, Any], path: list[Any], value: Any) -> None:
    inside(manifest, path[:-1])[path[-1]] = copy.deepcopy(value)


def delete(manifest: dict[str, Any], path: list[Any]) -> None:
    del inside(manifest, path[:-1])[path[-1]]


def rename(manifest: dict[str, Any], path: list[Any], name: str) -> None:
    parent = inside(manifest, path[:-1])
    parent[name] = parent.pop(path[-1])


def nest(manifest: dict[str, Any], path: list[Any], depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    put(manifest, path, value)


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def link(folder: Path, name: str) -> None:
    outside = folder.parent / OUTSIDE
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside, target_is_directory=outside.is_dir())


def become_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("hello")


JSON_VERBS: dict[str, Any] = {
    "set": put,
    "delete": delete,
    "rename": rename,
    "nest": nest,
    "many": lambda manifest, path, count: put(manifest, path, [0] * count),
}
FILE_VERBS: dict[str, Any] = {
    "write": lambda folder, name, content: write(folder / name, content),
    "append": lambda folder, name, content: write(folder / name, (folder / name).read_text() + content),
    "truncate": lambda folder, name, size: write(folder / name, (folder / name).read_text()[:size]),
    "flip": lambda folder, name, position: flip(folder / name, position),
    "remove": lambda folder, name: (folder / name).unlink(),
    "folder": lambda folder, name: (folder / name).mkdir(),
    "link": link,
    "unlink": lambda folder: (folder.parent / OUTSIDE).unlink(),
    "manifest": lambda folder, content: (folder / MANIFEST).write_bytes(bytes.fromhex(content)),
    "fill": lambda folder, unit, count: (folder / MANIFEST).write_text(unit * count),
    "pad": lambda folder, count: write(folder / MANIFEST, (folder / MANIFEST).read_text() + " " * count),
    "gone": shutil.rmtree,
    "file": become_file,
}
LAST = ("manifest", "fill", "pad", "gone", "file", "unlink")
