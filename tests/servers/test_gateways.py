"""Gateways as people meet them: one table of what `/v1/models` answers and what is said of it."""

import asyncio
import html
import http.server
import json
import re
import socket
import ssl
import subprocess
import threading

import pytest

from tuner.cli import commands
from tuner.core.run_directory import Trial
from tuner.engines.base import ServerSpec
from tuner.errors import ServerFailed, SpecError
from tuner.notebook.run_panel import SweepPanel
from tuner.servers.http import another_way
from tuner.servers.server import launch
from tuner.sweep.spec import make_spec

JSON, HTML = "application/json", "text/html"
LIST = json.dumps({"object": "list", "data": [{"id": "org/a"}, {"id": "org/b"}]})
NOT_STARTED = "Not started: see the message in red above."
GOES_ON = ""  # with a model named, what is said stops nothing


@pytest.fixture
def gateway(tmp_path):
    """Start a server that gives one answer to every GET; its URL, and what it was asked."""
    servers = []

    def start(status, body="", headers=None, certificate=None):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers.get("authorization")))
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def attach(tmp_path, url, **more):
    spec = make_spec({"engine": "attach", "base_url": url, "ready_timeout": 0.3, **more}, ServerSpec)
    with launch(spec, Trial(tmp_path)) as server:
        return server.model_name


@pytest.fixture(scope="module")
def panel():
    return SweepPanel({"engine": "attach", "base_url": "http://127.0.0.1:1", "model": "x"})


def said_by(panel, error):
    """The words in red of a panel that has met an error."""

    async def fail():
        raise error

    panel._form.show_nothing_wrong()
    asyncio.run(panel._guard(fail()))
    shown = [panel._status, *(field._note for field in panel._form._fields.values())]
    red = (one.value for one in shown if "tuner-error" in one.value)
    (said,) = {html.unescape(re.sub("<[^>]*>", "", words)) for words in red} - {NOT_STARTED}
    return said


def said_in_terminal(error, monkeypatch, capsys):
    """The line of a command that ends with an error."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(commands, "app", fail)
    with pytest.raises(SystemExit):
        commands.main()
    return capsys.readouterr().err.removeprefix("tuner: ").removesuffix("\n")


#: status, body, its type, what is said where no model is named, and where `org/b` is
TABLE = [
    (200, LIST, JSON, "org/a", "org/b"),
    (200, '[{"id": "org/b"}]', JSON, "org/b", "org/b"),
    (200, '{"data": [{"name": "org/b"}]}', JSON, "org/b", "org/b"),
    (200, '{"data": [{"id": "org/*"}]}', JSON, "org/\\*", "org/b"),
    (200, '{"data": [{"id": "org/c"}]}', JSON, "org/c", "serves no model 'org/b'; did you mean org/c"),
    (200, '{"data": [{"id": "x"}]}', JSON, "x", "serves no model 'org/b'; it has x"),
    (200, '{"data": []}', JSON, "lists no model at /v1/models: load one there; name the model", GOES_ON),
    (200, '{"data": 3}', JSON, "a list that cannot be read", GOES_ON),
    (200, '{"data": [{}]}', JSON, "a list that cannot be read", GOES_ON),
    (200, "{}", JSON, "a list that cannot be read", GOES_ON),
    (200, '{"error": {"message": "No such tenant"}}', JSON, r"cannot be read \(No such tenant\); name", GOES_ON),
    (206, LIST, JSON, "org/a", "org/b"),
    (204, "", JSON, r"with no JSON \(it is empty\)", GOES_ON),
    (402, '{"error": {"message": "No credit"}}', JSON, "402 Payment Required: No credit", GOES_ON),
    (407, "<title>Proxy</title>", HTML, "407 Proxy Authentication Required: Proxy", GOES_ON),
    (308, "moved", HTML, "308 Permanent Redirect: moved", GOES_ON),
    (530, "error code: 1033", "text/plain", "is not ready: 530: error code: 1033", "error code: 1033"),
    (200, "", JSON, r"with no JSON \(it is empty\)", GOES_ON),
    (200, "pong", "text/plain", r"with no JSON \(pong\)", GOES_ON),
    (200, "<html><title>Sign in</title><p>x", HTML, r"with a page for people \(Sign in\)", GOES_ON),
    (404, '{"detail": "Not Found"}', JSON, r"has no list of models at /v1/models \(404 Not Found\); name", GOES_ON),
    (405, "", JSON, "405 Method Not Allowed", GOES_ON),
    (501, "", JSON, "501 Not Implemented", GOES_ON),
    (
        400,
        "<h1>The plain HTTP request was sent to HTTPS port</h1>",
        HTML,
        "write https:// for http://",
        "write https://",
    ),
    (
        401,
        '{"error": {"message": "Incorrect API key"}}',
        JSON,
        "401 Unauthorized: Incorrect API key; name its variable in api_key_env",
        "api_key_env",
    ),
    (403, '{"message": "No scope model.read"}', JSON, "403 Forbidden: No scope model.read; name its", GOES_ON),
    (429, '{"error": "slow down"}', JSON, "is not ready: 429 Too Many Requests: slow down, within 0.3 s", "slow down"),
    (500, '{"error": {"message": "\\u001b[31mboom\\u0007"}}', JSON, "500 Internal Server Error: boom, within", "boom"),
    (502, "<html><h1>502 Bad Gateway</h1></html>", HTML, "502 Bad Gateway: 502 Bad Gateway, within", "502"),
    (
        503,
        '{"error": {"message": "Loading model"}}',
        JSON,
        "503 Service Unavailable: Loading model, within",
        "Loading model",
    ),
]


@pytest.mark.parametrize(("status", "body", "kind", "unnamed", "named"), TABLE)
def test_what_a_gateway_answers_is_said(
    gateway, tmp_path, panel, monkeypatch, capsys, status, body, kind, unnamed, named
):
    url, _ = gateway(status, body, {"content-type": kind})
    for model, said in (("", unnamed), ("org/b", named)):
        if said == GOES_ON or said.startswith("org/") or said == "x":
            name = attach(tmp_path, url, model=model)
            assert name == (said.replace("\\", "") or model)
            continue
        with pytest.raises(ServerFailed, match=said) as failed:
            attach(tmp_path, url, model=model)
        message = str(failed.value)
        assert url in message and message.isprintable() and "no server answers" not in message
        assert said_by(panel, failed.value) == said_in_terminal(failed.value, monkeypatch, capsys) == message


def test_of_several_models_it_says_which_is_measured(gateway, tmp_path, caplog):
    url, _ = gateway(200, '{"data": [{"id": "base"}, {"id": "adapter"}]}')
    for model, said in (("", 1), ("adapter", 0)):
        caplog.clear()
        assert attach(tmp_path, url, model=model) == (model or "base")
        assert caplog.text.count("serves base, adapter: the first is measured; name another with model") == said


@pytest.mark.parametrize(
    ("target", "key", "said"),
    [
        ("{there}/v1/models", None, "redirects .307. to {there}, which is another host: .* give it as base_url"),
        ("{there}/v1/models", "sk-x", "redirects .307. to {there}, which is another host"),
        ("{beside}/v1/models", "sk-x", ""),
        ("{beside}/v1/models/", "sk-x", ""),
        ("http://127.0.0.1:9/v1/models", None, "redirects to 127.0.0.1:9, where no server answers"),
        ("{there}/login?next=models", None, "sends to {there}/login.next=models .307., which is no API"),
        ("/v1/models", None, "redirects .307. in a circle"),
    ],
)
def test_a_redirect_is_followed_or_named_and_no_key_goes_elsewhere(gateway, tmp_path, monkeypatch, target, key, said):
    there, asked = gateway(200, LIST)
    beside, there = there, there.replace("127.0.0.1", "localhost")
    here, _ = gateway(307, "", {"location": target.format(there=there, beside=beside)})
    monkeypatch.setenv("MY_KEY", key or "none")
    spec = ServerSpec(engine="attach", base_url=here, api_key_env="MY_KEY" if key else None)
    if said:
        with pytest.raises(ServerFailed, match=said.format(there=there)):
            launch(spec, Trial(tmp_path))
        assert not [authorization for _, authorization in asked if authorization]
    else:
        with launch(spec, Trial(tmp_path)) as server:
            assert server.base_url == beside  # and the load goes there too


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        ("http://llm:8000/v1", "http://llm:8000/again", ""),
        ("http://llm:8000/v1", "https://llm/v1", ""),
        ("http://llm:8000/v1", "http://llm.elsewhere:8000/v1", "http://llm.elsewhere:8000, which is another host"),
        ("https://llm/v1", "http://llm/v1", "http://llm, which is without TLS"),
        ("http://llm/v1", "file://llm/etc/passwd", "file://llm, which is another host"),
        ("http://llm:8000/v1", "http://llm:9000/v1", "http://llm:9000, to which another proxy leads"),
        ("http://llm:9000/v1", "http://llm:8000/v1", "http://llm:8000, to which another proxy leads"),
    ],
)
def test_a_redirect_leads_neither_elsewhere_nor_another_way(here, there, said, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "llm:9000")
    assert another_way(here, there) == said


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "own.pem"
    options = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=own",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(
        ["openssl", "req", "-x509", *options, "-keyout", path, "-out", tmp_path / "c"], check=True, stderr=-3
    )
    path.write_text(path.read_text() + (tmp_path / "c").read_text())
    return path


def test_a_certificate_of_ones_own_is_trusted_where_it_is_named(gateway, tmp_path, certificate, monkeypatch):
    url, _ = gateway(200, LIST, certificate=certificate)
    with pytest.raises(
        ServerFailed, match=r"a certificate that is not trusted \(self-signed certificate\): .* verify: CA"
    ):
        attach(tmp_path, url)
    assert attach(tmp_path, url, verify=str(certificate)) == "org/a"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert attach(tmp_path, url) == "org/a"
    with pytest.raises(ServerFailed, match=r"none.pem holds no certificate"):
        attach(tmp_path, url, verify="none.pem")


def test_http_and_https_are_told_apart(gateway, tmp_path, certificate):
    with pytest.raises(ServerFailed, match=r"speaks no TLS: write http:// for https://"):
        attach(tmp_path, gateway(200, LIST)[0].replace("http", "https"))


def test_a_host_that_answers_nothing_and_one_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.servers.http._TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerFailed, match=r"takes the connection and does not answer /v1/models in time"):
            attach(tmp_path, url)
    with pytest.raises(ServerFailed, match=rf"no server answers at {url} \(.*Connection refused.*within 0.3 s"):
        attach(tmp_path, url)


def test_a_proxy_that_refuses_is_named(gateway, tmp_path, monkeypatch):
    url, asked = gateway(503, '{"error": "not allowed"}')
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(ServerFailed, match=r"503 .*: not allowed, through the proxy 127.0.0.1"):
        attach(tmp_path, "http://10.255.0.1:8000")
    assert asked


@pytest.mark.parametrize(
    "path", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/models", "/docs", "/health", "/metrics"]
)
def test_a_whole_endpoint_is_understood(gateway, tmp_path, path):
    url, asked = gateway(200, LIST)
    assert attach(tmp_path, url + path) == "org/a"
    assert asked[0][0] == "/v1/models"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1?api-version=2", r"base_url ends at \? or #"),
        (
            "/api/paas/v4/chat/completions",
            "ends in /chat/completions: only servers that answer at /v1/chat/completions",
        ),
        ("/generate", "ends in /generate"),
        ("/api/chat", "ends in /api/chat"),
    ],
)
def test_an_endpoint_that_no_load_asks_is_refused(tmp_path, path, said):
    with pytest.raises(SpecError, match=said):
        attach(tmp_path, f"http://host{path}")
