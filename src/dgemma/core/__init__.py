"""What every room shares: errors, model config and presets, sampler policy, noise, manifest. Imports no other room."""
