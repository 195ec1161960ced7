"""Lowering to Qualcomm's NPU: static ONNX graphs, compiled ahead of time into contexts for individual chips."""
