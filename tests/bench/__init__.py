"""Figures against named peers; `python -m tests.bench` writes build/bench.json."""
