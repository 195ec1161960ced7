"""TPU v4 chips to compile for: those of this machine, or a described topology that libtpu compiles for without any chip.

It knows nothing of models.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from typing import Any

import jax

from dgemma.core.errors import EngineError, UsageError
from dgemma.core.install import pip_install
from dgemma.reference import has_tpu

TOPOLOGY = re.compile(r"v4:([1-9]\d?)x([1-9]\d?)x([1-9]\d?)")
HOST = (2, 2, 1)  # chips of one v4 host
CLOCK = 1.05e9  # Hz of v4; Jouppi et al. (arXiv 2304.01433), table 4

# Without a TPU machine's metadata server libtpu asks for it and complains; several processes may compile at a time.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def parse(topology: str) -> tuple[int, int, int]:
    """`v4:2x2x1` → (2, 2, 1) chips; raises UsageError."""
    found = TOPOLOGY.fullmatch(topology)
    if not found:
        raise UsageError(f"--topology {topology!r} is unknown; write v4:XxYxZ, for example v4:1x1x1 or v4:2x2x1")
    x, y, z = (int(n) for n in found.groups())
    return x, y, z


def devices(topology: str) -> list[Any]:
    """The chips of a topology, one device each (megacore): real ones where this machine has a TPU.

    Real chips are the first ones of the machine. That path has not been run: no TPU was at hand.

    Raises:
        UsageError: no such topology, or this machine has fewer chips.
        EngineError: libtpu is not installed.
    """
    shape = parse(topology)
    count = shape[0] * shape[1] * shape[2]
    if has_tpu():
        found = jax.devices("tpu")
        if len(found) < count:
            raise UsageError(
                f"--topology {topology} needs {count} chips and this machine shows {len(found)}; choose a smaller one"
            )
        return list(found[:count])
    if find_spec("libtpu") is None:
        raise EngineError(f"compiling for TPU needs package 'libtpu'; {pip_install('reference')}")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    bounds = tuple(min(n, host) for n, host in zip(shape, HOST, strict=True))
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chip_config_name="megacore", chips_per_host_bounds=bounds
        )
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--topology {topology}: libtpu refuses it ({reason}); choose v4:1x1x1 or v4:2x2x1") from None
    return list(described.devices)
