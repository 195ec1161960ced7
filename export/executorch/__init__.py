"""Lowering to ExecuTorch: exported programs → one `.pte` with the four methods, matrix products in XNNPACK."""
