"""Lowering to ExecuTorch backends on accelerators: static methods in `.pte` files, for Core ML and for Vulkan."""
