"""Training on PyTorch: fine-tuning a checkpoint, whole or by LoRA. It knows nothing of tokenizers, bundles and engines."""
