"""The engines that run bundles, by name. It knows nothing of what runs them: see `runtime/engines`."""

from __future__ import annotations

from dgemma.core.errors import UsageError

PACKAGES = {"onnx": "onnxruntime", "executorch": "executorch"}  # engine → the package that it needs
ENGINES = tuple(PACKAGES)  # in order of preference


def engines_of(option: str) -> tuple[str, ...]:
    """`--engine onnx|executorch|all`; raises UsageError."""
    if option == "all":
        return ENGINES
    if option not in ENGINES:
        raise UsageError(f"--engine {option!r} is unknown; choose {', '.join(ENGINES)} or all")
    return (option,)
