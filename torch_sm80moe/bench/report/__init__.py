"""Turns results into a page: tables, plots, and how they stand against the targets."""
