"""A folder in the form of the released checkpoint, at a small size and with random weights: made from a seed in seconds.

Its config.json and generation_config.json hold the published keys; weights are bfloat16 in shards with an index, vision tensors
among them; the tokenizer is a BPE with byte fallback and special tokens at the published ids; the model's vocabulary has rows
past the tokenizer's. Twelve layers, two of them full, so that keys by layer have two digits. Run as a script to make one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import checkpoints as hf
import torch

REPO, REVISION = "google/diffusiongemma-26B-A4B-it", "0123456789abcdef0123456789abcdef01234567"
PIECES, VOCAB = 640, 704
EXPERTS, TOP_K, WIDTH = 8, 2, 32
TEXT_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 12,
    "moe_intermediate_size": WIDTH,
    "max_position_embeddings": 4096,
}
IMAGE = {"boi_token_id": 630, "image_token_id": 631, "eoi_token_id": 632}
SPECIAL = {
    0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>",
    49: "<tool_call|>", 50: "<|tool_response>", 51: "<tool_response|>", 52: '<|"|>', 98: "<|think|>", 100: "<|channel>",
    101: "<channel|>", 105: "<|turn>", 106: "<turn|>", 630: "<|image>", 631: "<|image|>", 632: "<image|>",
}  # fmt: skip
FIRST_BYTE = 238
CORPUS = "Reverse the word table. Write 4271 in words. Spell the words tiger pilot. Is the answer in the garden on Monday? " * 3

# What the published template does, written anew: system and developer turns, the switch for thinking and its channel, tools.
TEMPLATE = """\
{%- macro quoted(text) -%}{{- '<|"|>' + text + '<|"|>' -}}{%- endmacro -%}
{%- macro value(v, bare) -%}
    {%- if v is string -%}{{- quoted(v) -}}
    {%- elif v is boolean -%}{{- 'true' if v else 'false' -}}
    {%- elif v is mapping -%}{{- '{' + entries(v, bare) + '}' -}}
    {%- elif v is sequence -%}
        {{- '[' -}}{%- for item in v -%}{{- value(item, bare) -}}{{- ',' if not loop.last -}}{%- endfor -%}{{- ']' -}}
    {%- else -%}{{- NULL -}}{%- endif -%}
{%- endmacro -%}
{%- macro entries(values, bare) -%}
    {%- for key, v in values | dictsort -%}
        {{- key if bare else quoted(key) -}}{{- ':' + value(v, bare) -}}{{- ',' if not loop.last -}}
    {%- endfor -%}
{%- endmacro -%}
{%- macro required(names) -%}
    {{- 'required:[' -}}{%- for n in names -%}{{- quoted(n) -}}{{- ',' if not loop.last -}}{%- endfor -%}{{- ']' -}}
{%- endmacro -%}
{%- macro items(schema) -%}
    {%- for key, v in schema | dictsort if v is not none -%}
        {%- if key == 'properties' -%}{{- 'properties:{' + (properties(v) if v is mapping else '') + '}' -}}
        {%- elif key == 'required' -%}{{- required(v) -}}
        {%- elif key == 'type' -%}{{- 'type:' + value(v | upper if v is string else v | map('upper') | list, false) -}}
        {%- else -%}{{- key + ':' + value(v, false) -}}{%- endif -%}
        {{- ',' if not loop.last -}}
    {%- endfor -%}
{%- endmacro -%}
{%- macro properties(schemas, skip=[]) -%}
    {%- for key, s in schemas | dictsort if key not in skip -%}
        {{- key + ':{' -}}
        {%- if s['description'] -%}{{- 'description:' + quoted(s['description']) + ',' -}}{%- endif -%}
        {%- set kind = s['type'] | upper -%}
        {%- if kind == 'STRING' and s['enum'] -%}{{- 'enum:' + value(s['enum'], false) + ',' -}}{%- endif -%}
        {%- if kind == 'ARRAY' and s['items'] is mapping and s['items'] -%}
            {{- 'items:{' + items(s['items']) + '},' -}}
        {%- endif -%}
        {%- if s['nullable'] -%}{{- 'nullable:true,' -}}{%- endif -%}
        {%- if kind == 'OBJECT' -%}
            {%- if s['properties'] is mapping -%}{{- 'properties:{' + properties(s['properties']) + '},' -}}
            {%- elif s is mapping -%}
                {{- 'properties:{' + properties(s, ['description', 'type', 'properties', 'required', 'nullable']) + '},' -}}
            {%- endif -%}
            {%- if s['required'] -%}{{- required(s['required']) + ',' -}}{%- endif -%}
        {%- endif -%}
        {{- 'type:' + quoted(kind) + '}' -}}{{- ',' if not loop.last -}}
    {%- endfor -%}
{%- endmacro -%}
{%- macro declaration(f) -%}
    {{- 'declaration:' + f['name'] + '{description:' + quoted(f['description']) -}}
    {%- set p = f['parameters'] -%}
    {%- if p -%}
        {{- ',parameters:{' -}}
        {%- if p['properties'] -%}{{- 'properties:{' + properties(p['properties']) + '},' -}}{%- endif -%}
        {%- if p['required'] -%}{{- required(p['required']) + ',' -}}{%- endif -%}
        {%- if p['type'] -%}{{- 'type:' + quoted(p['type'] | upper) + '}' -}}{%- endif -%}
    {%- endif -%}
    {%- if 'response' in f -%}
        {{- ',response:{' -}}
        {%- set r = f['response'] -%}
        {%- if r['description'] -%}{{- 'description:' + quoted(r['description']) + ',' -}}{%- endif -%}
        {%- if r['type'] | upper == 'OBJECT' -%}{{- 'type:' + quoted('OBJECT') + '}' -}}{%- endif -%}
    {%- endif -%}
    {{- '}' -}}
{%- endmacro -%}
{%- macro spoken(text) -%}
    {%- for part in text.split('<channel|>') -%}{{- part.split('<|channel>')[0] -}}{%- endfor -%}
{%- endmacro -%}
{{- bos_token -}}
{%- set turns = messages -%}
{%- set think = enable_thinking is defined and enable_thinking -%}
{%- set headed = messages[0].role in ['system', 'developer'] -%}
{%- if think or tools or headed -%}
    {{- '<|turn>system\n' -}}
    {%- if think -%}{{- '<|think|>\n' -}}{%- endif -%}
    {%- if headed -%}{{- messages[0].content | trim -}}{%- set turns = messages[1:] -%}{%- endif -%}
    {%- for tool in tools or [] -%}{{- '<|tool>' + declaration(tool['function']) + '<tool|>' -}}{%- endfor -%}
    {{- '<turn|>\n' -}}
{%- endif -%}
{%- set ns = namespace(user=-1, before='', called=false, results=false, behind='') -%}
{%- for turn in turns -%}{%- if turn.role == 'user' -%}{%- set ns.user = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for turn in turns -%}
    {%- if turn.role == 'tool' -%}
        {%- if LATER -%}{%- set ns.before = 'tool' -%}{%- endif -%}
        {%- continue -%}
    {%- endif -%}
    {%- set role = 'model' if turn.role == 'assistant' else turn.role -%}
    {%- if not (role == 'model' and ns.before == 'assistant') -%}{{- '<|turn>' + role + '\n' -}}{%- endif -%}
    {%- set thought = turn.get('reasoning') or turn.get('reasoning_content') -%}
    {%- if thought and loop.index0 > ns.user and (LATER or turn.get('tool_calls')) -%}
        {{- '<|channel>thought\n' + thought + '\n<channel|>' -}}
    {%- endif -%}
    {%- set ns.called = turn.get('tool_calls') is not none and turn.get('tool_calls') | length > 0 -%}
    {%- set ns.results = false -%}
    {%- set ns.behind = '' -%}
    {%- for call in turn.get('tool_calls') or [] -%}
        {%- set f = call['function'] -%}
        {{- '<|tool_call>call:' + f['name'] + '{' + entries(f['arguments'], true) + '}<tool_call|>' -}}
    {%- endfor -%}
    {%- for follow in turns[loop.index0 + 1:] -%}
        {%- if follow.role != 'tool' -%}{%- set ns.behind = ns.behind or follow.role -%}
        {%- elif ns.called and not ns.behind -%}
            {%- set ns.results = true -%}
            {%- set name = namespace(of=follow.get('name') or 'unknown') -%}
            {%- for call in turn['tool_calls'] if call.get('id') == follow.get('tool_call_id') -%}
                {%- set name.of = call['function']['name'] -%}
            {%- endfor -%}
            {%- set held = follow.content if follow.content is mapping else {'value': follow.content} -%}
            {{- '<|tool_response>response:' + name.of + '{' + entries(held, true) + '}<tool_response|>' -}}
        {%- endif -%}
    {%- endfor -%}
    {%- set text = turn.content or '' -%}
    {%- set text = (spoken(text) if role == 'model' else text) | trim -%}
    {{- text -}}
    {%- if ns.called and not ns.results -%}{{- '<|tool_response>' -}}
    {%- elif LATER and role == 'model' and ns.behind == 'assistant' -%}
    {%- elif not ns.results or text or (LATER and ns.behind) -%}{{- '<turn|>\n' -}}{%- endif -%}
    {%- set ns.before = turn.role -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if not ns.called -%}
        {{- '<|turn>model\n' -}}
        {%- if not (think or LATER) -%}{{- '<|channel>thought\n<channel|>' -}}{%- endif -%}
    {%- elif LATER and ns.results and think -%}{{- '<|channel>thought\n' -}}{%- endif -%}
{%- endif -%}
"""


def template(*, later: bool = False) -> str:
    """The template as it was published first, or as it was changed later: no empty thoughts, and turns that close otherwise."""
    null = "'null' if v is none else v" if later else "v"
    return TEMPLATE.replace("NULL", null).replace("LATER", str(later).lower())


def make(folder: Path, seed: int = 4) -> Path:
    """Write the folder, which must not exist."""
    model = hf.hf_model(experts=EXPERTS, seed=seed, branches=0.5, **TEXT_SHAPE).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="300kB")
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(published_config(saved["vision_config"]), indent=2))
    (folder / "generation_config.json").write_text(json.dumps(GENERATION, indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(), ensure_ascii=False))
    names = {"bos_token": 2, "eos_token": 1, "pad_token": 0, "unk_token": 3, "mask_token": 4}
    settings = {"tokenizer_class": "GemmaTokenizer", **{name: SPECIAL[i] for name, i in names.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template())
    processor = {"processor_class": "Gemma4Processor", "image_seq_length": 280, "image_processor": {"patch_size": 4}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def saved_again(folder: Path, out: Path) -> Path:
    """The folder as transformers leaves it after loading and saving."""
    from transformers import AutoTokenizer

    hf.DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    shutil.copyfile(folder / "processor_config.json", out / "processor_config.json")
    return out


def hub_cache(folder: Path, cache: Path) -> Path:
    """The folder as a download leaves it in a hub's cache; returns the snapshot, whose files are links into `blobs`."""
    root = cache / f"models--{REPO.replace('/', '--')}"
    snapshot = root / "snapshots" / REVISION
    for name in ("blobs", "refs", f"snapshots/{REVISION}"):
        (root / name).mkdir(parents=True)
    (root / "refs" / "main").write_text(REVISION)
    for file in sorted(folder.iterdir()):
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def published_config(vision: dict[str, Any]) -> dict[str, Any]:
    """The published keys; `vision` gives the sizes of the small vision tower."""
    layers = 12
    text = {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2, "dtype": "bfloat16", "eos_token_id": 1,
        "final_logit_softcapping": 30.0, "global_head_dim": 32, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96,
        "layer_types": ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(layers)],
        "max_position_embeddings": 4096, "model_type": "diffusion_gemma_text", "moe_intermediate_size": WIDTH,
        "num_attention_heads": 4, "num_experts": EXPERTS, "num_global_key_value_heads": 1, "num_hidden_layers": layers,
        "num_key_value_heads": 2, "pad_token_id": 0, "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": hf.WINDOW, "tie_word_embeddings": True, "top_k_experts": TOP_K,
        "use_bidirectional_attention": "vision", "vocab_size": VOCAB,
    }  # fmt: skip
    tower = {
        "_name_or_path": "", "architectures": None, "attention_bias": False, "attention_dropout": 0.0,
        "chunk_size_feed_forward": 0, "default_output_length": 280, "dtype": "bfloat16",
        "hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02, "max_position_embeddings": 131072,
        "model_type": "gemma4_vision", "pooling_kernel_size": 3, "rms_norm_eps": 1e-06, "use_clipped_linears": False,
        "rope_parameters": {"rope_theta": 100.0, "rope_type": "axial"},
    }  # fmt: skip
    return {
        "architectures": ["DiffusionGemmaForBlockDiffusion"], **IMAGE, "canvas_length": hf.CANVAS, "dtype": "bfloat16",
        "eos_token_id": [1, 106], "initializer_range": 0.02, "model_type": "diffusion_gemma", "text_config": text,
        "tie_word_embeddings": True, "transformers_version": "5.8.0.dev0", "vision_config": {**vision, **tower},
        "vision_soft_tokens_per_image": 280,
    }  # fmt: skip


GENERATION: dict[str, Any] = {
    "confidence_threshold": 0.005, "eos_token_id": [1, 106, 50], "max_denoising_steps": 48, "max_new_tokens": 256,
    "pad_token_id": 0, "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
    "stability_threshold": 1, "t_max": 0.8, "t_min": 0.4, "transformers_version": "5.8.0.dev0",
}  # fmt: skip


def tokenizer_json() -> dict[str, Any]:
    """`PIECES` pieces: special and unused ones, bytes, single characters, and merges of a short text."""
    vocabulary = {SPECIAL.get(i, f"<unused{i}>"): i for i in range(FIRST_BYTE)}
    vocabulary |= {f"<0x{byte:02X}>": FIRST_BYTE + byte for byte in range(256)}
    words = [list(f"{word}▁") for word in CORPUS.split()]
    pieces, merges = ["▁", "\n", *(chr(code) for code in range(33, 127))], []
    while FIRST_BYTE + 256 + len(pieces) < min(IMAGE.values()):
        counts: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(list(best))
        pieces.append("".join(best))
        words = [_merged(word, best) for word in words]
    vocabulary |= {piece: FIRST_BYTE + 256 + i for i, piece in enumerate(pieces)}
    vocabulary |= {SPECIAL.get(i, f"<unused{i}>"): i for i in range(len(vocabulary), PIECES)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    unused = [i for name, i in vocabulary.items() if name.startswith("<unused")]
    added = {**SPECIAL, **{i: f"<unused{i}>" for i in unused}}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": text, **plain, "special": i in SPECIAL} for i, text in sorted(added.items())],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    """The word with every place of the pair joined, from left to right."""
    found: list[str] = []
    for piece in word:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return found


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), *map(int, sys.argv[2:])))
