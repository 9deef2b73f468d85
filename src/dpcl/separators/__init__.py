"""Separators: they estimate the masks of the sources in a mixture."""
