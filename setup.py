"""For tools that still ask for a setup.py, such as Beam's `--setup_file`; everything is in pyproject.toml."""

from setuptools import setup

setup()
