"""Compiles static graphs into contexts for one chip, in a child process because a compiler may crash or be killed.

    python compile.py JOB.json

A job names the chip's options and graphs that share one context, and so their weights; a line on stdout reports each graph
that is done, with processor seconds and peak memory so far. It needs nothing else of the package.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

PROVIDER = "QNN"


def compile_job(job: dict[str, Any]) -> None:
    """Compile `job["graphs"]`, pairs of (source, wrapper to write), with the provider options `job["options"]`.

    The binary lies beside the first wrapper; the others refer to it. Every node must be the accelerator's.
    """
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    ort.set_default_logger_severity(4)
    ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    devices = [d for d in ort.get_ep_devices() if d.ep_name == PROVIDER][:1]
    graphs = job["graphs"]
    kept = []  # a context that is shared ends with its last session
    for i, (source, wrapper) in enumerate(graphs):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        entries = {
            "session.disable_cpu_ep_fallback": "1",
            "ep.context_enable": "1",
            "ep.context_embed_mode": "0",
            "ep.context_file_path": wrapper,
            "ep.share_ep_contexts": "1",
        }
        if i == len(graphs) - 1:
            entries["ep.stop_share_ep_contexts"] = "1"
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        provider = {"backend_path": qnn.get_qnn_htp_path(), "enable_htp_weight_sharing": "1", **job["options"]}
        options.add_provider_for_devices(devices, provider)
        kept.append(ort.InferenceSession(source, options))
        print(f"done {time.process_time():.1f} {_peak()} {Path(source).name}", flush=True)


def _peak() -> int:
    """Bytes of memory that this process had at most; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


def _end_with_parent() -> None:
    """Exit when stdin ends: a compiler must not outlive an export that was killed."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    compile_job(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
