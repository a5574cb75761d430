"""Runs replicas as containers of a Docker engine.

    provider.py    the verbs: start, terminate, remove, …
    document.py    what a container carries in its labels, and whether it is ours
    container.py   from a specification to what the engine is asked to create
    images.py      is the image here, what does it bring along
    secrets.py     what it finds at /var/openfaas/secrets
    user.py        whom an image that was not built here runs as
    addresses.py   which address a replica gets
    network.py     the functions' network in the engine, and our fence around it
    watch.py       which containers there are: a cache kept by the engine's events
    stats.py       what the engine says a container uses
    follow.py      what containers write, on its way into the functions' logs

start:   image ── address, user ── create (signed label) ── start ── follow its output
end:     event "die" ── inspect ── exit reason
remove:  SIGKILL ── rest of its output ── container gone; the log stays
"""

from runtime.providers.docker.provider import DockerProvider

__all__ = ["DockerProvider"]
