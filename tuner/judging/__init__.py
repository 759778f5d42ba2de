"""Batches → verdicts → what they amount to."""
