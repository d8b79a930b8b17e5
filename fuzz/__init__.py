"""Fuzz targets for everything that reads a stranger's bytes. See README.md."""
