"""A bundle for ONNX Runtime with other numbers in the graphs of one that is there: graphs that stay the same need no export."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

from dgemma.core.manifest import list_files, read_manifest, write_manifest
from dgemma.quantize.read_onnx import WEIGHT


def edited(source: Path, out: Path, numbers: Mapping[str, torch.Tensor]) -> Path:
    """A copy of the bundle with new tensors by the names of their parameters, as the graphs have them."""
    shutil.copytree(source, out)
    changed = set()
    for graph in sorted(out.glob("onnx/*.onnx")):
        model = onnx.load(graph, load_external_data=False)
        for tensor in model.graph.initializer:
            new = numbers.get(tensor.name.removeprefix(WEIGHT))
            if new is None:
                continue
            changed.add(tensor.name)
            made = numpy_helper.from_array(new.numpy(), tensor.name)
            assert (list(made.dims), made.data_type) == (list(tensor.dims), tensor.data_type), tensor.name
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                place = {entry.key: entry.value for entry in tensor.external_data}
                assert int(place["length"]) == len(made.raw_data), tensor.name
                with (graph.parent / place["location"]).open("r+b") as file:
                    file.seek(int(place["offset"]))
                    file.write(made.raw_data)
            else:
                tensor.CopyFrom(made)
        graph.write_bytes(model.SerializeToString(deterministic=True))
    assert len(changed) == len(numbers), f"only {changed} are in the graphs"
    os.remove(out / "golden.npz")  # of the other numbers
    manifest, _ = read_manifest(source)
    write_manifest(out, replace(manifest, files=list_files(out)))
    return out
