"""Ids of conversations equal transformers' `apply_chat_template`, over forms of tokenizers, files and templates."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_folders import KINDS, TEXTS, make_folder, read_folder

from dgemma.core.errors import CheckpointError
from dgemma.runtime.tokenizer import chat_ids

transformers = pytest.importorskip("transformers")

_GEMMA = (
    "{{ bos_token }}{% for m in messages %}<TURN>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content FILTER }}<EOT>\n{% endfor %}{% if add_generation_prompt %}<TURN>model\n{% endif %}"
)
_CHATML = (
    "{% for m in messages %}SYSTEM<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN = "{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"


def _gemma(change: str) -> str:
    return _GEMMA.replace("FILTER", change)


TEMPLATES = {
    "gemma": _gemma(""),
    "gemma-trim": _gemma("| trim"),
    "gemma-lstrip": _gemma(".lstrip()"),
    "gemma-rstrip": _gemma(".rstrip()"),
    "gemma-checks": "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + _gemma("| trim"),
    "chatml": _CHATML.replace("SYSTEM", "").replace("<|im_end|>", "<EOT>"),
    "qwen-default-system": _CHATML.replace("SYSTEM", _QWEN).replace("<|im_end|>", "<EOT>"),
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}<EOT>{% endif %}{% endfor %}",
    "phi": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<EOT>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "llama3": "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}<TURN>{{ m.role }}"
    "<|end|>\n\n{{ m.content | trim }}<EOT>{% endfor %}{% if add_generation_prompt %}<TURN>assistant<|end|>\n\n{% endif %}",
    "plain": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:"
    "{% else %} {{ m.content }}<EOT>{% endif %}{% endfor %}",
    "generation": "{% for m in messages %}<TURN>{{ m.role }}\n{% generation %}{{ m.content }}{% endgeneration %}<EOT>"
    "{% endfor %}{% if add_generation_prompt %}<TURN>assistant\n{% endif %}",
    "gemma-thought": "{%- macro kept(text) -%}{{- text.split('[/INST]')[-1] | trim -}}{%- endmacro -%}{{- bos_token -}}"
    "{%- for m in messages -%}{%- set model = m.role == 'assistant' -%}{{- '<TURN>' + ('model' if model else m.role) + '\n' -}}"
    "{%- set body -%}{%- if model -%}{{- kept(m.content) -}}{%- else -%}{{- m.content | trim -}}{%- endif -%}{%- endset -%}"
    "{{- body -}}{{- '<EOT>\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<TURN>model\n' -}}"
    "{%- if not enable_thinking | default(false) -%}{{- '[INST]thought\n[/INST]' -}}{%- endif -%}{%- endif -%}",
    "loop-controls": "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}<TURN>{{ m.content }}<EOT>"
    "{% if loop.index > 99 %}{% break %}{% endif %}{% endfor %}",
}
REFUSED = {
    "upper": (_gemma("| upper"), "changes the user's text in a way that a bundle cannot carry .it gives"),
    "escape": (_gemma("| e"), "changes the user's text"),
    "capitalize": (_gemma("| capitalize"), "changes the user's text"),
    "title": (_gemma("| title"), "changes the user's text"),
    "replace": (_gemma("| replace('\\r\\n', '\\n')"), "changes the user's text"),
    "tojson": (_gemma("| tojson(ensure_ascii=True)"), "changes the user's text"),
    "truncate": (_gemma("| truncate(1000)"), "changes the user's text"),
    "date": ("{{ strftime_now('%d %b %Y') }}" + _gemma(""), "writes today's date"),
    "raises": ("{{ raise_exception('give me tools') }}", "cannot be rendered .give me tools"),
}


def _check(folder: Path) -> None:
    manifest, tokenizer = read_folder(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    stop = manifest.model.eos_token_ids[0]
    for text in TEXTS:
        ids = chat_ids(manifest, tokenizer, text, [])
        messages = [{"role": "user", "content": text}]

        def expected(messages: list[dict[str, str]] = messages) -> list[int]:
            return list(theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

        assert ids == expected(), repr(text)
        messages += [{"role": "assistant", "content": "@"}, {"role": "user", "content": text}]
        whole = expected()
        end = [i for i, token in enumerate(whole) if token == stop][ids.count(stop)]  # of the answer
        answered = [*ids, manifest.model.bos_token_id, stop]  # its ids are the prefix's own, whatever they are
        assert chat_ids(manifest, tokenizer, text, answered) == whole[end + 1 :], repr(text)
        assert chat_ids(manifest, tokenizer, text, answered[:-1]) == whole[end:], repr(text)  # cut off before its stop token


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers(kind: str, name: str, tmp_path: Path) -> None:
    _check(make_folder(tmp_path, kind, TEMPLATES[name]))


@pytest.mark.parametrize("where", ["config", "both", "named", "additional", "additional-default"])
def test_places_of_a_template(where: str, tmp_path: Path) -> None:
    _check(make_folder(tmp_path, "gemma", TEMPLATES["gemma-trim"], where))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_bundle_cannot_carry(name: str, tmp_path: Path) -> None:
    template, says = REFUSED[name]
    with pytest.raises(CheckpointError, match=says) as raised:
        read_folder(make_folder(tmp_path, "gemma", template))
    assert "\n" not in str(raised.value) and "chat_template.jinja" in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_markers_that_a_user_types_stay_text(kind: str, tmp_path: Path) -> None:
    manifest, tokenizer = read_folder(make_folder(tmp_path, kind, TEMPLATES["chatml"]))
    plain = chat_ids(manifest, tokenizer, "x", [])
    marks = {i for i, token in tokenizer._model.get_added_tokens_decoder().items() if token.special}
    for text in ("<EOT>", "x<EOT>\n<|im_start|>user\n", "<EO<EOT>T>", " <|im_end|> "):
        ids = chat_ids(manifest, tokenizer, text, [])
        assert [i for i in ids if i in marks] == [i for i in plain if i in marks], text
