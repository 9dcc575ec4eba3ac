"""Building blocks shared by all models."""
