"""TCL as a good plain PyTorch program computes it: float32, vectorised, in the official order of operations.

The fast forms in `tcl` are held against it, for what they compute by the tests and for speed by `python -m benchmarks`.
Weights and formulas that are the same in both are taken from `tcl`.
"""
