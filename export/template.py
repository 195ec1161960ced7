"""A checkpoint's chat template: where it is found, and the jinja environment in which transformers renders it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dgemma.core.errors import CheckpointError
from dgemma.model import hf_config

TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
NAMED = "additional_chat_templates"
# Where a template can lie, the first one wins: the order in which transformers' tokenizers read the first three. The other two
# are those of its processors, which would take them before the first three; they count where a tokenizer has no template.
PLACES = (f"{NAMED}/default.jinja", TEMPLATE, TOKENIZER_CONFIG, "processor_config.json", "chat_template.json")
Render = Callable[..., str]


def read_template(folder: Path) -> tuple[Path, str] | None:
    """File and text of the first of PLACES that exists; of several templates, the one named default. None where there is none.

    Raises CheckpointError where only templates of other names exist, as transformers then does.
    """
    for name in PLACES:
        path = folder / name
        if path.suffix == ".json":
            found = _named_default(path, read_optional_json(path).get("chat_template"))
        else:
            found = _text(path) if path.is_file() else None
            if found is None and name == TEMPLATE and any((folder / NAMED).glob("*.jinja")):
                _refuse_other_names(folder / NAMED)
        if found is not None:
            return path, found
    return None


def other_template(folder: Path) -> Path | None:
    """The file that transformers' processors take a template of, where that is another text than a tokenizer's."""
    found = read_template(folder)
    for name in PLACES[3:] if found else ():
        other = _named_default(folder / name, read_optional_json(folder / name).get("chat_template"))
        if other is not None:
            return folder / name if found and found[1] != other else None
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: cannot be rendered (it is not UTF-8)") from None


def _named_default(path: Path, found: Any) -> str | None:
    if isinstance(found, list):
        found = {t["name"]: t["template"] for t in found if isinstance(t, dict) and {"name", "template"} <= t.keys()}
    if isinstance(found, dict):
        if "default" not in found:
            _refuse_other_names(path)
        found = found["default"]
    if found is not None and not isinstance(found, str):
        raise CheckpointError(f"{path}: chat_template is neither a text nor a list of named texts; correct it")
    return found


def _refuse_other_names(path: Path) -> NoReturn:
    raise CheckpointError(f"{path}: has several chat templates and none is named default; name one so")


def read_optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file; raises CheckpointError."""
    return hf_config.read_json(path) if path.is_file() else {}


def special_settings(folder: Path) -> dict[str, Any]:
    """The tokenizer's configuration; the older `special_tokens_map.json` comes first, unless the configuration lists tokens."""
    settings = read_optional_json(folder / TOKENIZER_CONFIG)
    if "added_tokens_decoder" in settings:
        return settings
    return settings | read_optional_json(folder / "special_tokens_map.json")


def compile_template(path: Path, text: str) -> Render:
    """What renders the template with the variables given as keywords; raises jinja2's TemplateError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        raise CheckpointError(f"{path}: writes today's date, which a bundle cannot carry; write a fixed one for strftime_now")

    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    render: Render = environment.from_string(text).render
    return render


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja's own, it escapes nothing for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _GenerationBlock(Extension):
    """`{% generation %}` marks what a model is trained on; the text is its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
