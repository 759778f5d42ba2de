"""Asking a server: what counts as an answer, and what its counters mean."""

import http.server
import socket
import threading

import pytest

from tuner.servers import http as probe


@pytest.fixture
def answering():
    """Serve one status and body for every page; the URL."""
    servers = []

    def start(status, body=b""):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

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
        assert ask(probe.is_there, url) and not ask(probe.is_healthy, url) and ask(probe.models, url) == []
    assert not ask(probe.is_there, url)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"data": 3}', b'{"data": [{}]}', b'{"data": [3]}', b"\xff", b"<html>"]
)
def test_a_strange_list_of_models_is_none(answering, body):
    assert ask(probe.models, answering(200, body)) == []


@pytest.mark.parametrize(("status", "word"), [(401, "401 Unauthorized"), (403, "403 Forbidden")])
def test_a_key_that_is_wanted_is_said(answering, status, word):
    with pytest.raises(probe.Refused, match=word):
        ask(probe.models, answering(status))


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b'a{engine="0"} 1.5\na{engine="1"} 2\n# HELP b x\n# TYPE b counter\nb_total 7\n', {"a": 3.5, "b_total": 7}),
        (b"", {}),
        (b"<html>not found</html>", {}),
        (b"a{ 1", {}),
        (b"\xff\xfe", {}),
    ],
)
def test_counters_are_summed_over_their_labels(answering, body, values):
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
