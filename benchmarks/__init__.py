"""Timings and memory; nothing here is a test."""
