"""The phases of `python -m benchmarks.gpu_check`."""
