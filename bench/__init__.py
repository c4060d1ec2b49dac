"""Benchmarks: `python -m bench` compares whole training steps, `python bench/contract.py` contractions alone."""
