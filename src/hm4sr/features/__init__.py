"""Frozen item features: encoders, their cache and their store."""
