"""Coverage-guided fuzzing of parsers, loaders and the service: `make fuzz`, or `python -m fuzz NAME`."""
