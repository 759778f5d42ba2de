"""What several test files share."""

import pytest
from tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """The path of a GGUF with a tiny random model, written once a test process."""
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")
