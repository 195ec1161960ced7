"""Trajectories compared: does every engine, loop and precision give the same canvases, and if not, why."""
