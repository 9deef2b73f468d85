"""Corpora, mixture lists, mixing and the training stream; independent of networks."""
