"""The tests of rescalefs."""
