"""Processes of ours: servers, their GPUs, what they use."""
