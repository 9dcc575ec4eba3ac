"""The recommender behind HTTP: an application, a batcher for what arrives together, and a page."""
