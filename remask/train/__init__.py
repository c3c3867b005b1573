"""Training: objective + net + data + seed = a run."""
