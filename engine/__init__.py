"""The Docker engine, for those who need it: builder, runtime and supervisor.

    client.py       one engine, asked with bounds; its errors as ours
    connections.py  how the SDK connects to it
    stream.py       its answers that take long or never end
    references.py   names of images: where a function's image lies, whose it is, credentials
    pull.py         fetches images that were not built here
    images.py       removes a function's image

Runs nothing by itself and decides nothing. The gateway must not come here.
"""
