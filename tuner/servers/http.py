"""Asking a server over HTTP: which way to it, is it ready, which models has it, what do its counters say."""

import contextlib
import ipaddress
import logging
import math
import os
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from tuner.core.text import server_words, shorten
from tuner.engines.base import without_tilde

log = logging.getLogger(__name__)

_TIMEOUT, _MOST = 5.0, 1 << 22  # seconds from a question to the end of its answer, and bytes of that
_LONGEST_NAME = 1000  # characters of a model's name
#: where servers say their version: vLLM, llama.cpp, SGLang (old, new), TGI, Ollama
VERSION_PATHS = ("/version", "/props", "/get_server_info", "/server_info", "/info", "/api/version")
_PROXY = re.compile("(http|https|all|no)_proxy", re.IGNORECASE)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MODELS = "/v1/models"
_CONTEXTS = ("max_model_len", "context_window", "context_length", "max_context_length")
_REDIRECTS = 5  # followed at most
_LEAST = 0.1  # seconds for a question where the time is over
_EMPTYING = 5.0  # seconds in which a server that is still busy can empty its prefix cache
#: variables that name the certificates to trust, the first that is set counts
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class NotReady(Exception):
    """What stands between us and a server's list of models; `{url}` in the words is the server's, or stands first."""

    def __init__(
        self, words: str, kind: str = "unreachable", *, is_final: bool = True, has_no_list: bool = False
    ) -> None:
        super().__init__(words)
        self.kind = kind  # as in `tuner.errors.ServerFailed`
        self.is_final = is_final  # waiting does not help
        self.has_no_list = has_no_list  # it can be measured all the same, where the model is named

    def about(self, url: str) -> str:
        """The words, about the server at `url`."""
        return str(self).replace("{url}", url) if "{url}" in str(self) else f"{url} {self}"


def certificates(verify: str | None) -> str | None:
    """The PEM file with the certificates to trust: as asked, or as the environment says; None for the usual ones."""
    return without_tilde(verify) if verify else next(filter(None, map(os.environ.get, _CA_VARIABLES)), None)


def proxy(url: str) -> str | None:
    """The proxy between us and `url` by HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in capitals or not.

    None stands between us and our own machine. NO_PROXY may name hosts, domains, networks (10.0.0.0/8) and `*`.
    """
    where, proxies = urlsplit(url), urllib.request.getproxies_environment()
    address = proxies.get(where.scheme) or proxies.get("all")
    exceptions = [*_LOOPBACK, *proxies.get("no", "").lower().split(",")]
    if not address or any(_is_meant(where, part.strip()) for part in exceptions):
        return None
    return address if "://" in address else f"http://{address}"


def _is_meant(where: SplitResult, exception: str) -> bool:
    host, domain = (where.hostname or "").rstrip("."), exception.lstrip("*.").strip("[]").rstrip(".")
    port = where.port or {"http": 80, "https": 443}.get(where.scheme)
    if domain and (domain in (host, f"{host}:{port}", f"{host}]:{port}") or host.endswith(f".{domain}")):
        return True
    with contextlib.suppress(ValueError):  # a name is in no network
        if "/" in exception and ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False):
            return True
    return exception == "*"


def environment(verify: str | None = None) -> dict[str, str]:
    """The variables by which another process of ours takes the same way to a server as we do, and trusts the same."""
    ways, trusted = {name: value for name, value in os.environ.items() if _PROXY.fullmatch(name)}, certificates(verify)
    return ways | (dict.fromkeys(_CA_VARIABLES, trusted) if trusted else {})


def client(
    base_url: str, api_key: str | None = None, verify: str | None = None, timeout: float = _TIMEOUT
) -> httpx.Client:
    """A client for one server, without a proxy to our own machine; NotReady where `verify` cannot be read."""
    trusted = certificates(verify) if base_url.startswith("https") else None
    folder = trusted if trusted and Path(trusted).is_dir() else None
    try:
        context = ssl.create_default_context(cafile=None if folder else trusted, capath=folder) if trusted else True
    except OSError as error:
        raise NotReady(f"cannot be trusted: {trusted} holds no certificate ({error.strerror or error})") from None
    return httpx.Client(
        base_url=base_url,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=timeout,
        verify=context,
        proxy=proxy(base_url),
        trust_env=False,
        # llama.cpp announces keep-alive and closes: each question gets a connection of its own
        limits=httpx.Limits(max_keepalive_connections=0),
    )


@contextlib.contextmanager
def _deadline(over: float) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """What a request is traced with, so that its connection ends when the time is over, however slowly it goes on."""
    connections = list[socket.socket]()

    def end() -> None:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def trace(event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":  # TLS moves it to another socket, which a duplicate survives
            connections.append(info["return_value"].get_extra_info("socket").dup())
            if time.monotonic() >= over:
                end()

    timer = threading.Timer(over - time.monotonic(), end)
    timer.daemon = True
    timer.start()
    try:
        yield trace
    finally:
        timer.cancel()
        timer.join()
        for connection in connections:
            connection.close()


def ask(http: httpx.Client, page: str | httpx.URL, method: str = "GET", seconds: float | None = None) -> httpx.Response:
    """Ask for a page, as each question of ours is asked: its answer ends in time, and is no longer than a few MiB.

    That is after `seconds`, by default the client's timeout. An httpx.HTTPError says that nobody answers, not in time,
    or at more length; of an error's body the beginning counts.
    """
    content, over = bytearray(), time.monotonic() + (seconds or http.timeout.read or _TIMEOUT)
    try:
        with _deadline(over) as trace, http.stream(method, page, extensions={"trace": trace}) as answer:
            for piece in answer.iter_bytes():
                content += piece
                if len(content) > _MOST:
                    break
    except httpx.HTTPError as error:
        if time.monotonic() < over or isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            raise
    if time.monotonic() >= over:
        raise httpx.ReadTimeout(f"{page} had no end in time")
    if len(content) > _MOST and answer.is_success:
        raise httpx.ReadError(f"{page} has more than {_MOST >> 20} MiB")
    headers = {name: answer.headers[name] for name in ("content-type", "location") if name in answer.headers}
    reason = {"reason_phrase": answer.extensions.get("reason_phrase", b"")}
    status, request = answer.status_code, answer.request
    return httpx.Response(status, headers=headers, content=bytes(content), request=request, extensions=reason)


def is_healthy(http: httpx.Client) -> bool:
    """Whether `/health` says so; a server that has no such page is as good as its `/v1/models`."""
    try:
        return ask(http, "/health").status_code in (200, 404, 405)
    except httpx.HTTPError:
        return False


def is_there(http: httpx.Client) -> bool:
    """Whether anybody serves there; one that is too busy to answer in time does, a gateway with nobody behind not."""
    try:
        return ask(http, _MODELS).status_code not in (502, 503, 504)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return False
    except httpx.HTTPError as error:
        log.debug("%s: %s", _MODELS, error)
        return True


def models(http: httpx.Client) -> tuple[dict[str, int], str]:
    """By model the most tokens of a request (0: unsaid), and its base URL (another after a redirect); or NotReady."""
    try:
        answer = _follow(http)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _no_answer(error, http) from None
    if not answer.is_success:
        raise _refused(answer, http)
    return _listed(answer), str(answer.url).partition("?")[0].rstrip("/").removesuffix(_MODELS)


def _follow(http: httpx.Client) -> httpx.Response:
    """The list of models, behind redirects too, but to no other host, out of TLS, or by another proxy."""
    deadline = time.monotonic() + (http.timeout.read or _TIMEOUT)
    answer = ask(http, _MODELS)
    for _ in range(_REDIRECTS):
        if not answer.has_redirect_location:
            return answer
        here, target = answer.url, answer.url.join(answer.headers["location"])
        if not target.path.rstrip("/").endswith(_MODELS):
            where = f"{shorten(str(target), 100)} ({answer.status_code})"
            raise NotReady(f"sends to {where}, which is no API: name the API itself")
        if other := another_way(str(here), str(target)):
            raise NotReady(f"redirects ({answer.status_code}) to {other}: if that is right, give it as base_url")
        answer = ask(http, target, seconds=max(deadline - time.monotonic(), _LEAST))
    raise NotReady(f"redirects ({answer.status_code}) in a circle")


def another_way(here: str, there: str) -> str:
    """In words, where a redirect would take requests that were asked for `here`, with their key; empty where it may."""
    ours, theirs = urlsplit(here), urlsplit(there)
    where = f"{theirs.scheme}://{theirs.hostname}{f':{theirs.port}' if theirs.port else ''}"
    if ours.hostname != theirs.hostname or theirs.scheme not in ("http", "https"):
        return f"{where}, which is another host"
    if ours.scheme == "https" and theirs.scheme == "http":
        return f"{where}, which is without TLS"
    return f"{where}, to which another proxy leads" if proxy(here) != proxy(there) else ""


#: what an error of the connection tells, whether it is final, and what to do
_UNTRUSTED = "shows a certificate that is not trusted ({}): name the CA's certificate, verify: CA.pem"
_CONNECTION = (
    (r"CERTIFICATE_VERIFY_FAILED\] certificate verify failed: (.*?) \(_ssl", True, _UNTRUSTED),
    (r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|UNKNOWN_PROTOCOL", True, "speaks no TLS: write http:// for https://"),
    (r"illegal status line", True, "answers, but not as HTTP: write https:// for http://"),
    (r"(ReadTimeout|WriteTimeout)", False, f"takes the connection and does not answer {_MODELS} in time"),
    (r"ReadError: (.* has more than .*)", True, "says too much: {}"),
    (r"ProxyError: (.*)", True, "is behind a proxy that refuses: {}"),
)


def _no_answer(error: Exception, http: httpx.Client) -> NotReady:
    said = f"{type(error).__name__}: {error}"
    for regex, is_final, words in _CONNECTION:
        if match := re.search(regex, said):
            message = words.format(shorten(match[match.lastindex or 0], 100)) + _by_proxy(http)
            return NotReady(message, is_final=is_final, has_no_list="Timeout" in said)
    reason = shorten(str(error) or type(error).__name__, 100) + _by_proxy(http)
    asked = error.request.url if isinstance(error, httpx.RequestError) else http.base_url
    if asked.netloc != http.base_url.netloc:  # which did answer
        return NotReady(f"redirects to {asked.netloc.decode()}, where no server answers ({reason})", is_final=False)
    return NotReady(f"no server answers at {{url}} ({reason})", is_final=False)


def _by_proxy(http: httpx.Client) -> str:
    way = proxy(str(http.base_url))
    return f", through the proxy {urlsplit(way).hostname} (HTTP_PROXY, NO_PROXY)" if way else ""


def _refused(answer: httpx.Response, http: httpx.Client) -> NotReady:
    status = f"{answer.status_code} {answer.reason_phrase}".strip()
    words = server_words(answer.text)
    said = (f"{status}: {words}" if words and words != answer.reason_phrase else status) + _by_proxy(http)
    code = answer.status_code
    if code in (401, 403):
        return NotReady(f"answers {said}", "unauthorized", has_no_list=code == 403)
    if code == 429 or code >= 500:
        return NotReady(f"is not ready: {said}", is_final=code == 501, has_no_list=code == 501)
    if "HTTPS port" in words:
        return NotReady(f"answers {said}: write https:// for http://")
    return NotReady(f"has no list of models at {_MODELS} ({said})", has_no_list=True)


def _listed(answer: httpx.Response) -> dict[str, int]:
    """The models of a list as OpenAI has it, or of a bare one, and the most tokens of a request of each; 0: unsaid."""
    try:
        said = answer.json()
    except (ValueError, RecursionError):
        page = server_words(answer.text) or "it is empty"
        what = "a page for people" if "<" in answer.text[:200] else "no JSON"
        raise NotReady(f"answers {_MODELS} with {what} ({shorten(page, 100)})", has_no_list=True) from None
    entries = said if isinstance(said, list) else said.get("data") if isinstance(said, dict) else None
    listed: dict[str, int] = {}
    for entry in entries if isinstance(entries, list) else [{}]:
        about = entry if isinstance(entry, dict) else {"id": entry}
        sizes = (about.get(name) for name in _CONTEXTS)
        size = next((size for size in sizes if isinstance(size, int) and size > 0), 0)
        listed[str(about.get("id") or about.get("name") or "")] = size
    if not all(0 < len(name) <= _LONGEST_NAME for name in listed):
        words = shorten(server_words(answer.text), 100)
        raise NotReady(f"answers {_MODELS} with a list that cannot be read ({words})", has_no_list=True)
    if not listed:
        raise NotReady(f"lists no model at {_MODELS}: load one there", "model_not_found", has_no_list=True)
    return listed


def version(http: httpx.Client) -> str:
    """What it says it is a version of; empty where it does not say."""
    deadline = time.monotonic() + (http.timeout.read or _TIMEOUT)
    for path in VERSION_PATHS:
        with contextlib.suppress(httpx.HTTPError, ValueError, AttributeError, RecursionError):
            said = ask(http, path, seconds=max(deadline - time.monotonic(), _LEAST)).raise_for_status().json()
            if version := said.get("version") or said.get("build_info"):  # as llama.cpp calls it
                return shorten(str(version), 100)
    return ""


_BUSY = (400, 409, 425, 429, 503)  # as SGLang says it


def empty_cache(http: httpx.Client, path: str) -> bool:
    """Whether a POST to `path` empties the prefix cache; a server that says that it is still busy is asked again."""
    deadline = time.monotonic() + _EMPTYING
    while True:
        try:
            answer = ask(http, path, "POST")
        except httpx.HTTPError:
            return False
        if answer.is_success and _is_done(answer):
            return True
        if not answer.is_success and answer.status_code not in _BUSY:
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def _is_done(answer: httpx.Response) -> bool:
    """Whether an answer says that what was asked is done: vLLM says `{"success": false}` with 200 while it is busy, and
    SGLang, once it has, in brackets when it would not have."""
    try:
        said = answer.json()
    except (ValueError, RecursionError):
        said = answer.text
    if isinstance(said, dict):
        is_wrong = said.get("error") or str(said.get("status", "")).lower() in ("error", "failed", "busy")
        return said.get("success", True) is True and not is_wrong
    words = re.sub(r"\([^)]*\)", "", said) if isinstance(said, str) else ""
    return said is not False and not re.search(r"^\s*<|\b(fail|not )", words, re.IGNORECASE)


def metrics(http: httpx.Client) -> dict[str, list[float]]:
    """The server's own counters and gauges by name, a value for each rank and model; none without `/metrics`."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        text = ask(http, "/metrics").raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (httpx.HTTPError, ValueError) as error:
        log.debug("/metrics: %s", error)
        return {}
    values: dict[str, list[float]] = {}
    for sample in samples:
        if math.isfinite(sample.value):
            values.setdefault(sample.name, []).append(sample.value)
    return values
