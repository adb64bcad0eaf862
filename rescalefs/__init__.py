"""rescalefs: the outputs of Rescale jobs as a file system."""

__version__ = "0.1.0"
