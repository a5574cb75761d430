"""``kill -9`` at every named step of a release, and an auditor that knows the history.

``python -m tests.chaos --runs 1000``: see ``--help``. A seed says all that a run does
(``scenario``), so that a failing one is run again alone; ``campaign`` does it to whole platforms,
``audit`` says what is not as it must be.
"""
