"""What the doctor finds, and that it finds what was left behind."""

import sys

import pytest
from support.recorded_nvml import RecordedNVML

from tuner.cli import doctor


def findings():
    return {finding.name: finding for finding in doctor.examine()}


def test_what_is_needed_is_here():
    found = findings()
    assert found["Python"].ok and found["genai-bench"].ok and found["engine llamacpp"].ok


def test_what_is_missing_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = findings()
    assert "pip install sglang" in found["engine sglang"].remedy
    assert "playwright install chromium" in found["browser"].remedy
    assert all(finding.ok or finding.remedy or finding.name == "GPU" for finding in found.values())


@pytest.mark.parametrize(
    ("module", "name", "ok", "words"),
    [
        (RecordedNVML(), "GPU 2", True, "80 GiB, 70.6 GiB in use by processes 40123"),
        (None, "GPU", False, "nvidia-ml-py"),
    ],
)
def test_gpus_are_named(monkeypatch, module, name, ok, words):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    found = findings()[name]
    assert found.ok == ok and words in found.detail
