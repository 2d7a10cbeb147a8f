"""The version, in one place: read by the build and by `saeserve.__version__` without the installer's metadata."""

__version__ = "0.1.0"
