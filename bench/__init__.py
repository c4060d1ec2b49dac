"""Whole training steps of graphc beside numpy, PyTorch and JAX: `python -m bench --help`."""
