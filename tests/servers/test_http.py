"""Asking a server: what counts as an answer, and what its counters mean."""

import contextlib
import http.server
import itertools
import socket
import threading
import time

import pytest
from support.processes import running_faulty_server

from tuner.servers import http as probe


@pytest.fixture
def answering():
    """Serve one status and body for every page; the URL."""
    servers = []

    def start(status, body=b""):
        bodies = itertools.chain(body, itertools.repeat(body[-1])) if isinstance(body, list) else itertools.repeat(body)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(next(bodies))

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(question, url):
    with probe.client(url, timeout=0.3) as client:
        return question(client)


@pytest.mark.parametrize(
    ("status", "healthy", "there"),
    [
        (200, True, True),
        (404, True, True),
        (401, False, True),
        (500, False, True),
        (502, False, False),
        (503, False, False),
    ],
)
def test_what_a_status_means(answering, status, healthy, there):
    url = answering(status)
    assert (ask(probe.is_healthy, url), ask(probe.is_there, url)) == (healthy, there)


def test_a_server_too_busy_to_answer_is_there_and_one_that_is_gone_is_not():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert ask(probe.is_there, url) and not ask(probe.is_healthy, url)
        with pytest.raises(probe.NotReady, match="takes the connection and does not answer"):
            ask(probe.models, url)
    assert not ask(probe.is_there, url)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (
            b'a{engine="0"} 1.5\na{engine="1"} 2\n# HELP b x\n# TYPE b counter\nb_total 7\n',
            {"a": [1.5, 2], "b_total": [7]},
        ),
        (b"", {}),
        (b"<html>not found</html>", {}),
        (b"a{ 1", {}),
        (b"\xff\xfe", {}),
    ],
)
def test_counters_have_a_value_for_each_of_their_labels(answering, body, values):
    assert ask(probe.metrics, answering(200, body)) == values


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'{"version": "0.32.0"}', "0.32.0"),
        (200, b'{"build_info": "b6123-abc"}', "b6123-abc"),
        (200, b'{"version": null}', ""),
        (200, b"[]", ""),
        (200, b"<html>", ""),
        (404, b'{"version": "no"}', ""),
    ],
)
def test_the_version_that_a_server_says(status, body, said, answering):
    assert ask(probe.version, answering(status, body)) == said


@pytest.mark.parametrize(
    ("status", "bodies", "emptied"),
    [
        (200, [b""], True),
        (200, [b'{"success": true}'], True),
        (200, [b'{"success": false}'], False),
        (200, [b'{"success": false}', b'{"success": false}', b'{"success": true}'], True),
        (200, [b'{"error": "busy"}'], False),
        (200, [b"Cache flushed."], True),
        (200, [b"Cache flushed.\nSee the logs. (While requests are running, it will not be performed.)\n"], True),
        (200, [b"null"], True),
        (200, [b"false"], False),
        (200, [b"<html>Sign in</html>"], False),
        (200, [b'{"status": "error", "message": "busy"}'], False),
        (400, [b"Flush cache failed.\n"], False),
        (200, [b"Flush failed: requests are running"], False),
        (404, [b'{"success": true}'], False),
    ],
)
def test_a_cache_is_emptied_where_the_server_says_so(answering, monkeypatch, status, bodies, emptied):
    monkeypatch.setattr(probe, "_EMPTYING", 0.5)
    url = answering(status, bodies)
    assert ask(lambda http: probe.empty_cache(http, "/reset_prefix_cache"), url) is emptied


@pytest.mark.parametrize(
    ("variables", "url", "way"),
    [
        ({}, "http://10.1.2.3:8000", None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://10.1.2.3:8000", "http://p:3128"),
        ({"http_proxy": "p:3128"}, "http://10.1.2.3:8000", "http://p:3128"),
        ({"http_proxy": "http://p:3128"}, "https://host", None),
        ({"ALL_PROXY": "http://p:3128"}, "https://host", "http://p:3128"),
        ({"http_proxy": "http://p:3128"}, "http://127.0.0.1:8000", None),
        ({"http_proxy": "http://p:3128"}, "http://[::1]:8000", None),
        ({"http_proxy": "http://p:3128", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3:8000", None),
        ({"http_proxy": "http://p:3128", "no_proxy": "10.1.2.3"}, "http://10.1.2.3:8000", None),
        ({"HTTP_PROXY": "http://p:3128", "no_proxy": ".corp, other"}, "http://llm.corp:8000", None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "*.corp"}, "http://llm.corp", None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "corp"}, "http://llmcorp", "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "llm:9000"}, "http://llm:8000", "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "*"}, "http://llm", None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "llm:80"}, "http://llm", None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "LLM:8000"}, "http://Llm:8000/v1", None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "llm.corp."}, "http://llm.corp", None),
    ],
)
def test_probe_and_load_take_the_same_way(monkeypatch, variables, url, way):
    names = [name for kind in ("http", "https", "all", "no") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert probe.proxy(url) == way
    passed_on = probe.environment()
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in passed_on.items():
        monkeypatch.setenv(name, value)
    assert probe.proxy(url) == way


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", None])
def test_certificates_mean_the_same_to_probe_and_load(monkeypatch, variable):
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "/theirs.pem")
    assert probe.certificates(None) == ("/theirs.pem" if variable else None)
    assert probe.environment("/ca.pem")["REQUESTS_CA_BUNDLE"] == "/ca.pem"
    assert probe.environment().get("REQUESTS_CA_BUNDLE") == ("/theirs.pem" if variable else None)


#: a question, the page that it asks for, and what comes of it where that page has no end
QUESTIONS = {
    "health": (probe.is_healthy, "/health", False),
    "whether it is there": (probe.is_there, "/v1/models", True),
    "models": (
        probe.models,
        "/v1/models",
        "does not answer /v1/models in time|says too much: .*/v1/models has more than",
    ),
    "version": (probe.version, "/version", ""),
    "metrics": (probe.metrics, "/metrics", {}),
    "emptying the cache": (lambda http: probe.empty_cache(http, "/reset"), "/reset", False),
}


@pytest.mark.parametrize("how", ["trickle", "endless"])
@pytest.mark.parametrize(("question", "page", "answer"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_page_without_an_end_costs_no_more_than_its_time(how, question, page, answer):
    with running_faulty_server(f"{how}={page}") as url:
        if isinstance(answer, str) and answer:
            with pytest.raises(probe.NotReady, match=answer):
                ask(question, url)
        else:
            assert ask(question, url) == answer


@pytest.mark.parametrize("status", [200, 503])
def test_headers_that_trickle_and_words_of_gigabytes_end_too(status):
    head = f"HTTP/1.1 {status} X\r\nx-a: ".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=trickle, args=(listener, head), daemon=True).start()
        with pytest.raises(probe.NotReady, match="does not answer /v1/models in time"):
            ask(probe.models, url)


def trickle(listener, data):
    """Send `data`, then a byte at a time, to the first that comes, until it goes."""
    connection, _ = listener.accept()
    connection.sendall(data)
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"a")
            time.sleep(0.05)


def test_what_no_json_can_hold_is_no_traceback(answering):
    deep, long = b"[" * 100_000, b'{"data": [{"id": "%s"}]}' % (b"x" * 100_000)
    for body in (deep, long):
        with pytest.raises(probe.NotReady):
            ask(probe.models, answering(200, body))
    assert ask(probe.version, answering(200, deep)) == ""
    assert len(ask(probe.version, answering(200, b'{"version": "%s"}' % (b"1" * 10_000)))) <= 100
    assert ask(probe.metrics, answering(200, b"a NaN\nb +Inf\nc 1\n")) == {"c": [1]}
