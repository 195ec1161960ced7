"""Accelerators that bundles are compiled for ahead of time: what `--target` may name, and the chips of Qualcomm's NPU.

It knows nothing of compilers and runtimes. Numbers of chips and their NPU architectures are those of ExecuTorch 1.5.1,
`backends/qualcomm/serialization/qc_schema.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgemma.core.errors import UsageError

AUTO, CPU, QNN, COREML, VULKAN = "auto", "cpu", "qnn", "coreml", "vulkan"
DELEGATES = (COREML, VULKAN)  # backends of ExecuTorch, which choose what runs a graph on the device


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A Snapdragon: its number in Qualcomm's tools, the architecture of its NPU, and the name it is sold under."""

    soc: int
    htp: int
    sold_as: str


CHIPS = {
    "SM8550": Chip(soc=43, htp=73, sold_as="Snapdragon 8 Gen 2"),
    "SM8650": Chip(soc=57, htp=75, sold_as="Snapdragon 8 Gen 3"),
    "SM8750": Chip(soc=69, htp=79, sold_as="Snapdragon 8 Elite"),
    "SM8850": Chip(soc=87, htp=81, sold_as="Snapdragon 8 Elite Gen 5"),
}
FORMS = f"{CPU}, {', '.join(DELEGATES)}, or {QNN}:CHIP[,CHIP…] with chips {', '.join(CHIPS)}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What `--target` of an export says: cpu, a backend of ExecuTorch, or qnn with chips."""

    backend: str
    chips: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises UsageError for an unknown backend or chip."""
        backend, colon, rest = text.partition(":")
        if backend not in (CPU, QNN, *DELEGATES) or (colon and backend != QNN):
            raise UsageError(f"--target {text[:40]!r} is unknown; choose {FORMS}")
        if backend != QNN:
            return cls(backend=backend)
        chips = tuple(dict.fromkeys(part.strip().upper() for part in rest.split(",") if part.strip()))
        if not chips:
            raise UsageError(f"--target qnn: name a chip, such as qnn:SM8650; choose {', '.join(CHIPS)}")
        if unknown := [chip for chip in chips if chip not in CHIPS]:
            raise UsageError(f"--target qnn: chip {unknown[0][:20]!r} is unknown; choose {', '.join(CHIPS)}")
        return cls(backend=QNN, chips=chips)


def name_of(chip: str) -> str:
    """Of a target in a manifest."""
    return f"{QNN}:{chip}"
