"""`python -m rescalefs` is the same as `rescalefs`."""

from rescalefs.cli import main

main(prog_name="rescalefs")
