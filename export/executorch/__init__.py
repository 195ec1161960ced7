"""Lowering to ExecuTorch: exported programs → one `.pte` with all methods, matrix products in XNNPACK."""
