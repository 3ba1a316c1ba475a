"""The one place that says the version; CMake and setuptools read it here."""

__version__ = "0.1.0"
