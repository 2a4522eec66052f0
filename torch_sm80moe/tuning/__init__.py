"""Tactics that were measured on a GPU: the tuner, its file, and how it gets into use."""
