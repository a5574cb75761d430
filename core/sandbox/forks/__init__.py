"""What runs inside a warm parent and in what it forks: the standard library alone, and trusted.

    parent.py    warms up, then forks whenever it is asked to
    child.py     from the fork to the function's first instruction: its init, then its program
    kernel.py    the system calls that Python has no name for

Run by the functions' interpreter, not by ours: nothing here may import the rest of the platform.
Our side of it is core/sandbox/warm.py.
"""
