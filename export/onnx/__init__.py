"""Lowering to ONNX: exported programs → graphs that share one external weight file."""
