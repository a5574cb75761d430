"""What a team sees of its releases in its forge: checks, deployments, a comment on the request.

    standby.py      waits until there is a repository of a forge
    reporting.py    the loop
    looking.py      what should be shown, by the store; what differs from what is shown
    following.py    what a release's log says of each function: the step it is at
    checks.py, deployments.py, comments.py    a release in the words of ``forges``
    markdown.py, tails.py, annotations.py     text that users' builds had a hand in, made safe
    outbox.py       what waits to be sent: the newest of each alone, an owner's one after the other
    telling.py      sends one of them, and remembers what the forge gave back

Level-triggered: what is to be shown is computed anew at each look, and whatever differs from what
was shown last (``keys.reports``) is sent. So a reporter that dies anywhere is no loss: what it sent
without remembering it, the next one finds at the forge (``forges.Forge``: what ``known`` is for).
"""
