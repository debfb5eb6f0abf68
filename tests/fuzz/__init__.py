"""Random networks through the public API against plain torch: ``python -m tests.fuzz --networks 2000``.

Network ``number`` of a seed is always the same, so a failure is repeated by
``--first number --networks 1``.
"""
