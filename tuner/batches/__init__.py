"""Files → one row a batch."""
