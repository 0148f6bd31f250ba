"""Builds the documentation site from the pages in docs/: `./dev docs`."""
