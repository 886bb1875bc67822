"""The command line, `python -m jaxnn`."""
