"""Optimizer steps in NumPy, with the bits of the kernels.

A rule is its formula; the clipping, decay and averaging around it, and the arguments that every function takes, are in
``_update.py``.  Numbers that depend on the step are computed in double and rounded to the parameter's type T before they are
combined with arrays.
"""
