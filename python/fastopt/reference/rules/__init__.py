"""Optimizer steps in NumPy, to the last bit as the kernels compute them.

A rule is its formula; the clipping, decay and averaging around it, and the arguments that every function takes, are in
``_update.py``.  Numbers of a step are computed in double, and rounded to the parameter's type T where they meet arrays.
"""
