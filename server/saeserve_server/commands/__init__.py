"""The commands of `saeserve-server`, one module each: on top of everything, imported by nothing.

A command may import any room, but torch and its kin only through the rooms that own them, and whatever is slow to
import (engine, gRPC, the hub's client) not before it runs: `--help` and a wrong configuration answer at once.

    main         the parser and the dispatch; each command adds its own arguments to it
    settings     the settings as flags, and the configuration they make
    start, sources, index, check, fetch/, completion
    healthcheck, demo      modules of their own: `python -m saeserve_server.commands.healthcheck`
    ready/       configurations of well-known sets of SAEs, which `fetch NAME` brings
"""
