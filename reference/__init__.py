"""The reference: denoiser, sampler and generation once more, in JAX, made for TPU v4. See README.md in this folder.

Importing it settles two things in JAX. A dtype of 64 bits that is asked for by name is meant, while whatever JAX chooses
by itself stays at 32. And where there is no TPU, computing is done on the CPU, unless JAX was told otherwise.
"""

from __future__ import annotations

from pathlib import Path

import jax


def has_tpu() -> bool:
    """Whether this machine shows TPU chips to its processes."""
    return any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))


jax.config.update("jax_explicit_x64_dtypes", "allow")
if jax.config.values["jax_platforms"] is None and not has_tpu():
    jax.config.update("jax_platforms", "cpu")
