"""Experiments and reports."""
