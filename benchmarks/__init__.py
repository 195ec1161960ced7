"""Quality and speed of a bundle, through the runtime alone: evaluate, bench, demo. Results are JSON with machine facts."""
