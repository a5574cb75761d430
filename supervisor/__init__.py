"""`slipway up`: starts the parts, keeps them running, stops them in order.

    up.py              the story: claims, leftovers, store, the rest, demo, until Ctrl-C, stop
    claims.py          what one Slipway has for itself: state folder, lock, run folder, port
    runtime_choice.py  process or docker, decided before anything starts
    parts.py           what is started, as data
    docker_parts.py    on Docker besides: registry.py, and build_engine.py, each of which prepares
                       and then becomes the program that serves
    keeper.py          spawns, watches, restarts, stops; one thread, one loop
    leftovers.py       ends what an earlier supervisor left behind
    processes.py       /proc: who descends from whom, who has what open
    chores.py, engine_chores.py
                       short jobs that need much memory, each in a process of its own
    base_images.py     `make base-images`
    backup.py, restore.py
                       all that git cannot give back, into a file and out of it
                       (archive.py, archivereader.py); ownstore.py: the store where nothing runs
    demo.py            pushes this checkout's functions through the real pipeline
    screen.py          what the user sees

The supervisor imports nothing heavy: it lives as long as everything else together.
"""
