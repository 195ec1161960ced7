"""The backends by name, and what each contributes to lowering. A backend's libraries are loaded only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from dgemma.core.accelerators import COREML
from dgemma.export.delegates.forms import Form
from dgemma.export.delegates.recorded import Recorded


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Args:
    packages: whose versions decide what is written.
    options: what the methods were compiled for, for a manifest.
    needs: what has to run them.
    zeros: whether it knows integers by the zero points that are written out.
    partitioner, edge: of ExecuTorch's lowering: what the backend takes, and how the program is prepared for it.
    repeatable: while it lasts, the same programs become the same bytes; its second argument is a folder for its files.
    check: of a written file: raises ExportError where it holds another computation than the forms and the step say.
    """

    name: str
    packages: tuple[str, ...]
    options: Mapping[str, str]
    needs: str
    zeros: bool
    partitioner: Callable[[], Any]
    edge: Callable[[], Any]
    repeatable: Callable[[Mapping[str, ExportedProgram], Path], AbstractContextManager[None]]
    check: Callable[[Path, list[Form], Recorded], None]


def of(name: str) -> Backend:
    """coreml or vulkan."""
    if name == COREML:
        from dgemma.export.delegates import coreml, coreml_check

        return Backend(
            name=name,
            packages=("executorch", "coremltools"),
            options={"precision": "float16", "specification": str(coreml.SPECIFICATION)},
            needs=coreml.LOWEST_OS,
            zeros=False,
            partitioner=coreml.partitioner,
            edge=coreml.edge,
            repeatable=coreml.repeatable,
            check=coreml_check.check,
        )
    from dgemma.export.delegates import vulkan

    return Backend(
        name=name,
        packages=("executorch",),
        options={"precision": "float16"},
        needs=vulkan.NEEDS,
        zeros=True,
        partitioner=vulkan.partitioner,
        edge=vulkan.edge,
        repeatable=vulkan.repeatable,
        check=vulkan.check,
    )
