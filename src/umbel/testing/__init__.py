"""For those who test: `umbel.testing.contracts` is the suite that every engine passes.

It needs pytest (`pip install pytest`); nothing else in the package imports it.
"""
