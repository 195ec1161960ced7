"""Lowering to ExecuTorch backends for accelerators: static methods in `.pte` files, for Core ML and for Vulkan."""
