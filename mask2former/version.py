"""Which version of the library this is: said here alone."""

__version__ = "0.2.0"
