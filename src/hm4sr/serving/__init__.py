"""Recommendations for customers."""
