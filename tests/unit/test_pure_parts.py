"""Metrics, losses and splits on examples whose answer is worked out by hand."""
