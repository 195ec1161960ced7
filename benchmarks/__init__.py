"""Quality and speed of a bundle, through the runtime alone: evaluate, speed, demo. Results are JSON with machine facts."""
