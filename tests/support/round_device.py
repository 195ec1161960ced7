"""A device of round figures, whose times can be worked by hand."""

from __future__ import annotations

from dgemma.benchmarks.plan import profile as profiles
from dgemma.benchmarks.plan.profile import Kernels, Products, Profile

ROUND = Kernels(
    products=Products(int8=1e12, int4=5e11, float32=1e11), share_products=0.5, share_reading=0.8, functions_per_s=1e9,
    values_per_s=2e9, joined_bytes_per_s=4e9, call_s=1e-4, layer_s=1e-5, integer_layer_s=2e-5, sampler_s=3e-4,
)  # fmt: skip
DEVICE = Profile(
    name="round",
    about="round figures",
    threads=2,
    memory_bytes=2**33,
    bytes_per_s=1e10,
    engines={"onnx": ROUND},
    sources=dict.fromkeys(profiles.SOURCED, "made up"),
)
