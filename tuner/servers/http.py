"""Asking a server over HTTP: is it ready, which models has it, what do its counters say."""

import contextlib
import logging
from urllib.parse import urlsplit

import httpx

log = logging.getLogger(__name__)

_TIMEOUT = 5.0
#: where servers say their version, and under which key: vLLM, llama.cpp, SGLang
VERSION_PATHS = {"/version": "version", "/props": "build_info", "/get_server_info": "version"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refused(Exception):
    """It answers and wants another API key."""


def client(base_url: str, api_key: str | None = None, timeout: float = _TIMEOUT) -> httpx.Client:
    """A client for one server; no proxy stands between us and our own machine."""
    return httpx.Client(
        base_url=base_url,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=timeout,
        trust_env=urlsplit(base_url).hostname not in _LOOPBACK,
        # llama.cpp announces keep-alive and closes: each question gets a connection of its own
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def is_healthy(http: httpx.Client) -> bool:
    """Whether `/health` says so; a server that has no such page is as good as its `/v1/models`."""
    try:
        return http.get("/health").status_code in (200, 404, 405)
    except httpx.HTTPError:
        return False


def is_there(http: httpx.Client) -> bool:
    """Whether anybody serves there; one that is too busy to answer in time does, a gateway with nobody behind not."""
    try:
        return http.get("/v1/models").status_code not in (502, 503, 504)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return False
    except httpx.HTTPError as error:
        log.debug("/v1/models: %s", error)
        return True


def models(http: httpx.Client) -> list[str]:
    """The models it serves; none where it does not answer yet.

    Raises:
        Refused: it wants an API key, or another one.
    """
    try:
        answer = http.get("/v1/models")
        if answer.status_code in (401, 403):
            raise Refused(f"{answer.status_code} {answer.reason_phrase}")
        return [str(model["id"]) for model in answer.raise_for_status().json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        log.debug("/v1/models: %s", error)
        return []


def version(http: httpx.Client) -> str:
    """What it says it is a version of; empty where it does not say."""
    for path, key in VERSION_PATHS.items():
        with contextlib.suppress(httpx.HTTPError, ValueError, AttributeError):
            if answer := http.get(path).raise_for_status().json().get(key):
                return str(answer)
    return ""


def post(http: httpx.Client, path: str) -> bool:
    """Whether a POST without a body to `path` succeeds."""
    try:
        return http.post(path).is_success
    except httpx.HTTPError:
        return False


def metrics(http: httpx.Client) -> dict[str, float]:
    """The server's own counters and gauges by name, summed over their labels; none where it has no `/metrics`."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        text = http.get("/metrics").raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (httpx.HTTPError, ValueError) as error:
        log.debug("/metrics: %s", error)
        return {}
    totals: dict[str, float] = {}
    for sample in samples:
        totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals
