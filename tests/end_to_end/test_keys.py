"""A server that repeats the key wherever it can say something: it stands nowhere, and costs nothing."""

import base64
import contextlib
import gzip
import html
import json
import re
import sys
import threading

import psutil
import pytest
from support import BYTE_TOKENIZER, FAULTY_SERVER
from support.commands import run, start
from support.processes import running_faulty_server

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("keys")]

#: neither has a shape that gives it away, and the first is spelt otherwise in JSON, HTML and URLs
KEY, HUB = 'canary&5d1f0a<b>"q-77', "hubCANARY0123456789"


#: a server of ours, which is told by a variable what to say
OWN = [sys.executable, str(FAULTY_SERVER), "--port", "{port}", "says_of=OF_SERVER", "error_every=3"]


def processes_of(process):
    """The words of a process and of all that it has started."""
    words = []
    for one in [process, *process.children(recursive=True)]:
        try:
            words += one.cmdline()
        except psutil.Error:  # it has just ended
            continue
    return words


def watch_processes(process, seen, ended):
    """Note the words of all processes in `seen` until the first has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while not ended.wait(0.1):
            seen.update(processes_of(process))


def spelt(secret):
    """The ways in which a file may hold it."""
    forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret).replace("&", "\\u0026").replace("<", "\\u003c")[1:-1]}
    return {form.encode() for form in forms | {html.escape(form) for form in forms}}


def contents(path):
    """A file's bytes, and what a page carries packed."""
    data = path.read_bytes()
    packed = re.findall(rb">([A-Za-z0-9+/=]{200,})<", data) if path.suffix == ".html" else []
    return b"\n".join([data, *(gzip.decompress(base64.b64decode(text)) for text in packed)])


@pytest.mark.parametrize("who", ["attached", "own"])
def test_a_key_that_is_echoed_stands_nowhere_and_the_report_is_made(who, tmp_path):
    variables = {"MY_AUTH": KEY, "HF_TOKEN": HUB, "OF_SERVER": f"<key> {HUB}"}
    asked = {
        **{"levels": [1, 2], "scenarios": ["D(20,8)"], "max_seconds": 1, "warmup_requests": 2},
        **{"tokenizer": str(BYTE_TOKENIZER), "api_key_env": "MY_AUTH", "slo": {"ttft": {"p90": {"threshold": 1}}}},
    }
    with running_faulty_server(f"says=<key> {HUB}", "error_every=3") as url:
        server = {"engine": "attach", "base_url": url} if who == "attached" else {"engine": "command", "command": OWN}
        (tmp_path / "asked.yaml").write_text(json.dumps(asked | server))
        seen, ended = set(), threading.Event()
        with start(tmp_path, "-vv", "sweep", "asked.yaml", **variables) as process:
            tuner = psutil.Process(process.pid)
            watch = threading.Thread(target=watch_processes, args=(tuner, seen, ended))
            watch.start()
            said = list(process.communicate(timeout=150))
            ended.set()
            watch.join()
        assert process.returncode == 0, said[1][-2000:]
    (folder,) = (tmp_path / "runs").iterdir()
    for words in (["load", folder, "--format", "json"], ["load", folder], ["compare", folder, folder, "-o", "c.html"]):
        said += run(tmp_path, *words, **variables)[1:]
    texts = [text.encode() for text in (*said, *seen)] + [contents(path) for path in files_in(tmp_path)]
    assert not [text for text in texts if any(form in text for secret in (KEY, HUB) for form in spelt(secret))]
    assert (folder / "report.html").exists() and "[redacted]" in (folder / "trials/0001/server.json").read_text()


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]
