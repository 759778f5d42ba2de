"""Measure many configurations."""
