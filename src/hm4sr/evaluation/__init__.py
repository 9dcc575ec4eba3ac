"""Full ranking and metrics."""
