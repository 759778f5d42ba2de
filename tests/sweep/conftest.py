from support.kept_client import kept_benches, kept_client

__all__ = ["kept_benches", "kept_client"]
