"""What keeps messages, results and state: three contracts and one folder for each engine.

`broker.py`, `results.py` and `state.py` are the contracts, `urls.py` opens the engine that a
URL names. `umbel.testing.contracts` holds the suite that every engine passes.
"""
