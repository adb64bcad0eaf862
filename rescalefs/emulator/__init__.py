"""An emulator of the Rescale REST API: a scripted world of jobs, served over real HTTP on loopback.

    world, jobs, files      what there is, and how it changes with time (content: bytes; clock: the time)
    worldfile, demo_world   worlds from a JSON file, and the one shown by the demo
    airfoil, openfoam       a flow with a known answer, and its OpenFOAM case
    wire, endpoints         the JSON rows, and what each URL answers
    faults, delivery        what goes wrong on purpose, and how bytes leave
    server, command         the HTTP server for tests, and the command line

Nothing outside this package is imported from rescalefs, so that a misunderstanding of the API cannot sit
both in the file system and in what tests it.
`server` needs aiohttp (the extra `rescalefs[emulator]`); everything else is the standard library alone.
"""
