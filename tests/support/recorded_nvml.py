"""NVML as `pynvml` shows it, answering from a file; null is a question that this GPU does not support."""

import json
from types import SimpleNamespace

from support import DATA

ANSWERS = DATA / "nvml-4-gpus.json"


class RecordedNVML:
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.gpus = json.loads(ANSWERS.read_text())["gpus"]
        self.open = 0

    def nvmlInit(self):  # noqa: N802  NVML's own name
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self.gpus[index]

    def __getattr__(self, question):
        return lambda handle, *_: self._answer(handle.get(question))

    def cut(self, index, uuids):
        """Cut a GPU into MIG slices of these UUIDs."""
        whole = self.gpus[index]
        self.gpus[index] = whole | {"slices": [whole | {"nvmlDeviceGetUUID": uuid} for uuid in uuids]}

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        return [int("slices" in handle), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, number):  # noqa: N802
        if number >= len(handle["slices"]):
            raise self.NVMLError("Not Found")
        return handle["slices"][number]

    def _answer(self, value):
        if value is None:
            raise self.NVMLError("Not Supported")
        if isinstance(value, list):
            return [SimpleNamespace(**one) for one in value]
        return SimpleNamespace(**value) if isinstance(value, dict) else value

    def use(self, index, size):
        self.gpus[index]["nvmlDeviceGetMemoryInfo"]["used"] = size
