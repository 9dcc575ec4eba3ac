"""From raw tables to batches."""
