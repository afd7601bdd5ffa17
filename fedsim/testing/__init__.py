"""The contract of strategies and local algorithms, as tests that anybody can run on theirs.

Every part that the registry finds is tested, those of installed packages too:

    pytest --pyargs fedsim.testing              # all parts
    python -m fedsim.testing my-strategy        # these alone; more arguments go to pytest

`test_strategies.py` and `test_clients.py` hold a part to what it promises by itself,
`test_rounds.py` to what a run needs of it: the same bytes in any blocks, after a resume and on Ray,
clients that are lost, and a legality that is true. docs/extending.md has what a part may declare.
"""
