"""Measure one server."""
