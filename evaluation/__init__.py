"""Judging a model: clips are generated once, measured by any number of metrics, and reported with intervals."""
