"""The Docker engine, for those who need it: builder, runtime and supervisor.

    client.py       one engine, asked with bounds; its errors as ours
    connections.py  how the SDK connects to it
    references.py   names of images: where a function's image lies in the registry, credentials

Runs nothing by itself and decides nothing. The gateway must not come here.
"""
