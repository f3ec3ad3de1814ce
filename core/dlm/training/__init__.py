"""Training: the engine, its checkpoints, optimisation and metrics."""
