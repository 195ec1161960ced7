"""Every study: the command that measures it, the results that it writes, and the page that shows them.

A new study is one module and one entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
_MODULE = "python -m dgemma.benchmarks.studies"
_TO = "benchmarks/results"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study.

    Args:
        name: what `studies run` takes.
        commands: lines to run from the checkout, in order; words in capitals are to be filled in.
        results: patterns of file names below `benchmarks/results`.
        page: name of its page in `docs/results`.
    """

    name: str
    commands: tuple[str, ...]
    results: tuple[str, ...]
    page: str

    def files(self) -> list[Path]:
        """The results that are committed, by name."""
        return sorted(path for pattern in self.results for path in RESULTS.glob(pattern))

    @property
    def placeholders(self) -> list[str]:
        """What a user has to put in before the commands can run."""
        return [word for line in self.commands for word in line.split() if word.isupper() and word.isalpha()]


STUDIES = (
    Study(
        name="evaluate",
        page="quality",
        results=("tiny-evaluate.json",),
        commands=(f"{_MODULE}.evaluate build/tiny.dgemma --engine onnx --threads 1 --out {_TO}/tiny-evaluate.json",),
    ),
    Study(
        name="gate",
        page="quantization",
        commands=("make gate",),
        results=("tiny-verify-fp32.json", "tiny-verify-w*.json", "tiny-sizes.json"),
    ),
    Study(
        name="gate-moe",
        page="mixture",
        commands=("make gate-moe",),
        results=("tiny-moe-verify-*.json", "tiny-moe-sizes.json"),
    ),
    Study(
        name="routers",
        page="mixture",
        commands=(f"{_MODULE}.routers --out {_TO}/tiny-moe-routers.json",),
        results=("tiny-moe-routers.json",),
    ),
    Study(
        name="ablation",
        page="quantization",
        results=("tiny-quantize-ablation.json",),
        commands=(f"{_MODULE}.ablation --out {_TO}/tiny-quantize-ablation.json",),
    ),
    Study(
        name="sizes",
        page="quantization",
        results=("2b-sizes.json",),
        commands=(f"{_MODULE}.sizes build/2b-w8.dgemma build/2b-w4-mixed.dgemma build/2b-w4.dgemma --out {_TO}/2b-sizes.json",),
    ),
    Study(
        name="linear",
        page="quantization",
        results=("linear.json",),
        commands=(f"{_MODULE}.linear --out {_TO}/linear.json",),
    ),
    Study(
        name="bench",
        page="speed",
        results=("bench-tiny-*.json",),
        commands=tuple(
            f"dgemma bench build/{bundle}.dgemma --engine {engine} --threads 2 --out {_TO}/bench-tiny-{recipe}-{engine}.json"
            for engine in ("onnx", "executorch")
            for bundle, recipe in (("tiny", "fp32"), ("tiny-w8", "w8"))
        ),
    ),
    Study(
        name="jvm",
        page="speed",
        results=("tiny-jvm.json", "tiny-jvm-bench.json"),
        commands=(f"{_MODULE}.jvm build/tiny-w8.dgemma --threads 1 --out {_TO}/tiny-jvm.json",),
    ),
    Study(
        name="full-size",
        page="full-size",
        results=("bench-2b-*.json", "2b-one-core.json"),
        commands=(
            "dgemma export 2b --random-weights 0 --soft topk:16 --recipe w4-mixed --out build/2b.dgemma",
            f"dgemma bench build/2b.dgemma --engine onnx --threads 2 --out {_TO}/bench-2b-w4-mixed-onnx.json",
            f"dgemma bench build/2b.dgemma --engine executorch --threads 2 --out {_TO}/bench-2b-w4-mixed-executorch.json",
        ),
    ),
    Study(
        name="released-shape",
        page="released-shape",
        results=("bench-26b-a4b-*.json",),
        commands=(
            "dgemma export 26b-a4b --random-weights 0 --soft topk:16 --recipe w4-mixed --out build/26b-a4b.dgemma",
            *(
                f"dgemma bench build/26b-a4b.dgemma --engine {engine} --threads 2 --outputs 128 --seconds 120 "
                f"--out {_TO}/bench-26b-a4b-w4-mixed-{engine}.json"
                for engine in ("executorch", "onnx")
            ),
        ),
    ),
    Study(
        name="small-memory",
        page="released-shape",
        results=("small-memory.json",),
        commands=(
            *(f"{_MODULE}.small_memory {part} --out {_TO}/small-memory.json" for part in ("quality", "routing")),
            f"{_MODULE}.small_memory steps build/26b-a4b.dgemma --name limited --out {_TO}/small-memory.json",
        ),
    ),
    Study(
        name="export-cost",
        page="full-size",
        results=("export-cost.json",),
        commands=(
            f"{_MODULE}.export_cost 2b --recipe w4-mixed --work FOLDER --out {_TO}/export-cost.json",
            f"{_MODULE}.export_cost benchmarks/studies/shapes/mixture-6x5 --recipe fp32 --engine executorch --soft exact "
            f"--work FOLDER --out {_TO}/export-cost.json",
        ),
    ),
    Study(
        name="experts",
        page="experts",
        results=("experts.json",),
        commands=(f"{_MODULE}.experts --out {_TO}/experts.json",),
    ),
    Study(
        name="peers",
        page="peers",
        results=("peers-*.json",),
        commands=(
            f"{_MODULE}.peers build/2b.dgemma --llama FOLDER --out {_TO}/peers-2b-w4-mixed.json",
            f"{_MODULE}.peers build/26b-a4b.dgemma --engine executorch --peers transformers/eager/bfloat16,llama.cpp/q4_0 "
            f"--rounds 2 --repeats 2 --out {_TO}/peers-26b-a4b-w4-mixed.json",
        ),
    ),
    Study(
        name="same-tokens",
        page="same-tokens",
        results=("tiny-same-tokens*.json", "tiny-same-options.json"),
        commands=(
            f"{_MODULE}.same_tokens build/tiny.dgemma --checkpoint checkpoints/tiny --count 300 --threads 1 "
            f"--out {_TO}/tiny-same-tokens.json",
            *(
                f"{_MODULE}.same_tokens build/tiny-{recipe}.dgemma --threads 1 --out {_TO}/tiny-same-tokens-{recipe}.json"
                for recipe in ("w8", "w4-mixed")
            ),
            f"{_MODULE}.same_options build/tiny.dgemma --checkpoint checkpoints/tiny --out {_TO}/tiny-same-options.json",
        ),
    ),
    Study(
        name="java",
        page="same-tokens",
        results=("tiny-java.json", "tiny-java-options.json"),
        commands=(
            "python android_demo/same_tokens.py build/tiny.dgemma build/tiny-w8.dgemma build/tiny-w4-mixed.dgemma "
            f"--count 200 --seeds 2 --out {_TO}/tiny-java.json",
            "python android_demo/same_options.py build/tiny.dgemma --checkpoint checkpoints/tiny "
            f"--out {_TO}/tiny-java-options.json",
        ),
    ),
    Study(
        name="arm64",
        page="same-tokens",
        results=("tiny-arm64.json", "tiny-arm64-java.json"),
        commands=("make arm64",),
    ),
    Study(
        name="reference",
        page="tpu",
        results=("tpu-v4-*.json", "tiny-verify-tpu.json"),
        commands=("dgemma reference compile 2b --steps 16 --canvas 256 --context 1280 --json",),
    ),
    Study(
        name="position_forwards",
        page="less-work",
        results=("tiny-position-forwards.json",),
        commands=(f"{_MODULE}.position_forwards build/tiny-w8.dgemma --threads 1 --out {_TO}/tiny-position-forwards.json",),
    ),
    Study(
        name="guidance",
        page="guidance",
        results=("tiny-guidance.json",),
        commands=(f"{_MODULE}.guidance --out {_TO}/tiny-guidance.json",),
    ),
    Study(
        name="control",
        page="control",
        results=("tiny-control.json",),
        commands=(f"{_MODULE}.control --per-task 10 --out {_TO}/tiny-control.json",),
    ),
    Study(
        name="option-cost",
        page="control",
        results=("2b-option-cost.json",),
        commands=(
            "dgemma export 2b --random-weights 0 --soft topk:16 --recipe w8 --engine onnx --out build/2b-w8.dgemma",
            f"{_MODULE}.option_cost build/2b-w8.dgemma --out {_TO}/2b-option-cost.json",
        ),
    ),
    Study(
        name="choices",
        page="control",
        results=("tiny-choices.json",),
        commands=(f"{_MODULE}.choices --per-task 12 --out {_TO}/tiny-choices.json",),
    ),
    Study(
        name="tune",
        page="control",
        results=("tiny-tune.json",),
        commands=(
            "dgemma tune tiny --task benchmarks/tasks/tiny_held_out.jsonl --limit 30 --trials 40 --threads 1 --out FOLDER "
            f"--json > {_TO}/tiny-tune.json",
        ),
    ),
    Study(
        name="story",
        page="story",
        results=("story.json",),
        commands=(f"{_MODULE}.story checkpoints/story checkpoints/story-4 --count 200 --dialogues 48 --out {_TO}/story.json",),
    ),
    Study(
        name="story-quantized",
        page="story",
        results=("story-quantized.json",),
        commands=(
            "dgemma export checkpoints/story --recipe w8 --out build/story-w8.dgemma",
            "dgemma export checkpoints/story --recipe w4-mixed --out build/story-w4-mixed.dgemma",
            f"{_MODULE}.story_quantized checkpoints/story build/story-w8.dgemma build/story-w4-mixed.dgemma "
            f"--out {_TO}/story-quantized.json",
        ),
    ),
    Study(
        name="story-speed",
        page="story",
        results=("story-speed.json",),
        commands=(
            "dgemma export checkpoints/story --recipe w8 --engine onnx --out build/story-w8.dgemma",
            "dgemma export checkpoints/story-4 --recipe w8 --engine onnx --out build/story-4-w8.dgemma",
            f"{_MODULE}.story_speed build/story-w8.dgemma build/story-4-w8.dgemma --out {_TO}/story-speed.json",
        ),
    ),
    Study(
        name="story-account",
        page="story",
        results=("story-account.json",),
        commands=(f"{_MODULE}.story_account --out {_TO}/story-account.json",),
    ),
    Study(
        name="structure",
        page="structure",
        results=("tiny-structure.json",),
        commands=(f"{_MODULE}.structure --per-task 30 --out {_TO}/tiny-structure.json",),
    ),
    Study(
        name="projection",
        page="projection",
        results=("2b-projection.json",),
        commands=(
            f"{_MODULE}.widths build/2b.dgemma --threads 2 --out build/widths.json",
            f"{_MODULE}.projection build/tiny.dgemma --widths build/widths.json --peers {_TO}/peers-2b-w4-mixed.json "
            f"--out {_TO}/2b-projection.json",
        ),
    ),
    Study(
        name="soft",
        page="soft",
        results=("tiny-soft.json",),
        commands=(f"{_MODULE}.soft checkpoints/tiny build/tiny.dgemma --out {_TO}/tiny-soft.json",),
    ),
    Study(
        name="npu",
        page="npu",
        results=("tiny-npu-fp32.json", "tiny-npu-w*.json", "tiny-npu-sources-*.json"),
        commands=tuple(
            line
            for recipe in ("fp32", "w8a16", "w4a16-mixed")
            for bundle in (f"build/npu-{recipe}.dgemma",)
            for line in (
                "dgemma export checkpoints/tiny --engine onnx --context 384 --target qnn:SM8650 "
                f"--recipe {recipe} --out {bundle}",
                f"{_MODULE}.npu checkpoints/tiny {bundle} --out {_TO}/tiny-npu-{recipe}.json",
                f"{_MODULE}.npu checkpoints/tiny {bundle} --sources --out {_TO}/tiny-npu-sources-{recipe}.json",
            )[: 2 if recipe == "fp32" else 3]
        ),
    ),
    Study(
        name="coreml",
        page="npu",
        results=("tiny-coreml-*.json",),
        commands=(
            "dgemma export checkpoints/tiny --engine onnx --context 256 --target coreml --recipe w4-mixed "
            "--out build/coreml.dgemma",
            f"{_MODULE}.npu checkpoints/tiny build/coreml.dgemma --read-back --count 20 --out {_TO}/tiny-coreml-w4-mixed.json",
        ),
    ),
    Study(
        name="npu-ablation",
        page="npu",
        results=("tiny-npu-ablation.json",),
        commands=(f"{_MODULE}.npu_ablation checkpoints/tiny --out {_TO}/tiny-npu-ablation.json",),
    ),
    Study(
        name="npu-compile",
        page="npu",
        results=("npu-compile*.json",),
        commands=(f"{_MODULE}.npu_compile 2b --chip SM8650 --work build/npu-compile --out {_TO}/npu-compile.json",),
    ),
    Study(
        name="npu-forecast",
        page="npu-forecast",
        results=("npu-forecast.json",),
        commands=(f"{_MODULE}.npu_forecast --out {_TO}/npu-forecast.json",),
    ),
    Study(
        name="plan-check",
        page="plan",
        results=("plan-check.json",),
        commands=(
            f"{_MODULE}.plan_check --fit RESULTS --test RESULTS --checkpoint checkpoints/tiny --out {_TO}/plan-check.json",
        ),
    ),
    Study(
        name="serve",
        page="serve",
        results=("serve-load.json",),
        commands=(f"{_MODULE}.serve_load --seconds 600 --out {_TO}/serve-load.json",),
    ),
    Study(
        name="levels",
        page="training",
        results=("tiny-levels.json",),
        commands=(f"{_MODULE}.levels --out {_TO}/tiny-levels.json",),
    ),
    Study(
        name="adapt",
        page="training",
        results=("tiny-adapt.json",),
        commands=(
            "python -m dgemma.train.tiny.conversations build/exercises.jsonl",
            "dgemma train train/tiny/causal.toml --out build/causal",
            "python -m dgemma.train.tiny.causal build/causal --out build/causal-gemma",
            "dgemma adapt build/causal-gemma --data build/exercises.jsonl --tokens 6000000 --canvas 64 --out build/adapted",
            f"{_MODULE}.adapt build/causal build/adapted --out {_TO}/tiny-adapt.json",
        ),
    ),
    Study(
        name="finetune",
        page="finetune",
        results=("tiny-finetune.json",),
        commands=(
            f"{_MODULE}.finetune --work build/finetune --timed lora",
            f"{_MODULE}.finetune --work build/finetune --threads 1 --out {_TO}/tiny-finetune.json",
        ),
    ),
    Study(
        name="two-commands",
        page="two-commands",
        results=("two-commands.json",),
        commands=(f"{_MODULE}.two_commands --out {_TO}/two-commands.json",),
    ),
)


def find(name: str) -> Study | None:
    return next((study for study in STUDIES if study.name == name), None)


def of_page(page: str) -> list[Study]:
    return [study for study in STUDIES if study.page == page]
