"""The operations of the network, one a file: forward and backward formula side by side.

An op takes tensors of one tape, checks their shapes, computes its output and records the way
back. It runs on any backend in float32 and float64, and never asks which.
"""
