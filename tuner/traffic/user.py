"""genai-bench's user, but for how it sends and reads: exactly, and with a line for each request.

Imported in the host process alone, since genai-bench patches the standard library. One subclass a level.
"""

import http.client
import itertools
import json
import re
import select
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urljoin

import certifi
import gevent
import urllib3
from genai_bench.metrics.request_metrics_collector import RequestMetricsCollector
from genai_bench.protocol import UserChatResponse
from genai_bench.user.openai_user import OpenAIUser
from gevent.monkey import get_original
from locust.runners import STATE_STOPPED, LocalRunner, WorkerRunner

from tuner.core.request_log import COMPLETED, FAILED, IN_FLIGHT, SentRequest
from tuner.core.text import server_words, shorten
from tuner.servers import http as routes
from tuner.traffic.course import Spool
from tuner.traffic.live import Gauge
from tuner.traffic.prompt_file import Request
from tuner.traffic.stream import SERVER_ERROR, Answer

_BLOCK = 1 << 16
_BROKEN = {
    "ProxyError": "the proxy between us and the server refuses the connection, or is not there (HTTP_PROXY, NO_PROXY)",
    "NameResolution|gaierror": "the name of the server's host is not known",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not trusted: name the CA's, verify: CA.pem",
    "Connection refused": "nobody listens at the server's address (connection refused)",
    "RemoteDisconnected": "the server closed the connection without an answer",
    "IncompleteRead|InvalidChunk": "the server closed the connection in the middle of its answer",
    "Connection reset|Broken pipe": "the server reset the connection",
    "BadStatusLine|LineTooLong": "the server does not answer as HTTP",
    "timed out|Timeout": "the connection timed out",
}


class User(OpenAIUser):  # type: ignore[misc]
    """One of a level's users, who sends a request as soon as the one before has ended; each level has a subclass."""

    key: ClassVar[str]  # the API key; it reaches the HTTP headers alone
    workload: ClassVar[list[Request]]  # in the order of sending
    workers: ClassVar[int]  # processes that share the level's users
    spool: ClassVar[Spool]
    gauge: ClassVar[Gauge]
    places: ClassVar[Iterator[int]]  # in the workload, each for one of the users
    _users: ClassVar[Iterator[int]] = itertools.count(1)

    def on_start(self) -> None:
        """Take the key, which genai-bench's command line was not told: it writes that into its files in clear."""
        super().on_start()
        self.headers["Authorization"] = f"Bearer {self.key}"
        self._user, runner = next(self._users), self.environment.runner
        self._worker = max(runner.worker_index, 0) if isinstance(runner, WorkerRunner) else 0
        self._numbers: Iterator[int] = itertools.count(1)
        self._pool = _pool(self.host)
        if self._user == 1:
            gevent.spawn(self.gauge.publish, self._worker, gevent.sleep)

    def chat(self) -> None:
        """Send the next request of the workload."""
        self._converse(next(self.places))

    def _converse(self, place: int, due: float | None = None) -> None:
        """Send the request at a place of the workload, turn by turn, each with the answers so far."""
        request = self.workload[place % len(self.workload)]
        messages: list[dict[str, Any]] = []
        for turn, new_messages in enumerate(request.turns, 1):
            messages += new_messages
            answer = self._exchange(self._payload(request, messages), turn, due if turn == 1 else None)
            if answer.error or turn == len(request.turns):
                return
            messages.append({"role": "assistant", "content": answer.text})

    def _payload(self, request: Request, messages: list[dict[str, Any]]) -> dict[str, Any]:
        more = dict(self.environment.sampler.additional_request_params)
        if system := more.pop("system_message", None):
            messages = [{"role": "system", "content": system}, *messages]
        sent = {"model": self.environment.sampler.model, "messages": messages, "temperature": 0.0, "stream": True}
        sent |= {"stream_options": {"include_usage": True}, "max_tokens": request.max_tokens}
        sent |= {"ignore_eos": request.fixed} if self.api_backend in {"vllm", "sglang"} else {}
        return {name: value for name, value in (sent | more).items() if value is not None}

    def _exchange(self, payload: dict[str, Any], turn: int, due: float | None) -> Answer:
        """Send one request that was due at an instant, or is now, read its answer, and write its line in any case."""
        answer, body, status = Answer(), json.dumps(payload).encode(), COMPLETED
        request = SentRequest(worker=self._worker, user=self._user, number=next(self._numbers), turn=turn)
        request.sent = time.monotonic()
        request.scheduled = request.sent if due is None else due
        self.gauge.begin(request, answer)
        try:
            request.http_status = self._read(body, answer)
        except gevent.GreenletExit:
            status = IN_FLIGHT
            raise
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            is_refused = isinstance(error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ProxyError)
            answer.fail(503 if is_refused else SERVER_ERROR, _why_broken(error))
        finally:
            self._write(request, answer, FAILED if answer.error else status)
        return answer

    def _read(self, body: bytes, answer: Answer) -> int:
        """Send `body` and read the stream into `answer`; returns the HTTP status."""
        response = self._post_on(body)
        try:
            if not 200 <= response.status < 300:
                answer.fail(response.status, _words_of(response, self.host))
            body_of = response if response.headers.get("content-encoding") else response._original_response
            while not answer.error and (piece := body_of.read1(_BLOCK)):
                if answer.feed(piece, time.monotonic()):
                    break
            answer.close(time.monotonic())
            with gevent.Timeout(0.25, False):  # for its end, so that the connection can be used again
                while body_of.read1(_BLOCK):
                    pass
                response.release_conn()
        finally:
            response.close()
        return int(response.status)

    def _post_on(self, body: bytes) -> Any:
        response = self._post(url := f"{self.host}/v1/chat/completions", body)
        for _ in range(3):
            target = urljoin(url, response.headers.get("location", ""))
            if response.status not in (307, 308) or routes.another_way(url, target):
                break
            response.drain_conn()
            response = self._post(url := target, body)
        return response

    def _post(self, url: str, body: bytes) -> Any:
        """The response to `body`, sent once more where the server had closed the kept connection: no failure of its."""
        is_kept, began = bool(len(self._pool.pools)), time.monotonic()
        options: dict[str, Any] = {"retries": False, "redirect": False, "preload_content": False, "timeout": None}
        try:
            return self._pool.urlopen("POST", url, body=body, headers=self.headers, **options)
        except urllib3.exceptions.ProtocolError as error:
            is_stale = is_kept and isinstance(error.args[-1], ConnectionError)
            if not is_stale or time.monotonic() - began > 1.0:  # later it is an answer that broke
                raise
            return self._pool.urlopen("POST", url, body=body, headers=self.headers, **options)

    def _write(self, request: SentRequest, answer: Answer, status: str) -> None:
        request.status = status
        if status != IN_FLIGHT:
            request.end = answer.end or time.monotonic()
        if answer.error:
            request.error_code, request.error_message = answer.error
        if answer.arrivals:
            request.first_token, request.last_token = answer.arrivals[0], answer.arrivals[-1]
        for name in ("first_answer_token", "gaps", "finish_reason", "streamed", "wrong_usage"):
            setattr(request, name, getattr(answer, name))
        counts = ("prompt_tokens", "completion_tokens", "cached_tokens")
        request.prompt_tokens, request.output_tokens, request.cached_tokens = map(answer.tokens, counts)
        if request.output_tokens is None and (answer.arrivals or not answer.streamed):
            count, request.estimated = self.environment.sampler.get_token_length, True
            is_whole = status == COMPLETED  # otherwise time may be short: a chunk is a token
            request.output_tokens = count(answer.every_text) if is_whole else len(answer.arrivals)
        self.gauge.end(request, answer)
        self.spool.add(request)


class ArrivalUser(User):
    """One of those who send what is due in an open loop: each waits for the next instant that no other waits for."""

    arrivals: ClassVar[Iterator[tuple[int, float]]]  # (place in the workload, seconds since the level's start)
    _idle: ClassVar[list[urllib3.PoolManager]] = []  # connections, the last used last: a server closes what idles

    def chat(self) -> None:
        """Send the next request that is due, on time or as soon as this user is free."""
        place, after = next(one for one in self.arrivals if one[0] % self.workers == self._worker)
        while not self.spool.start:
            gevent.sleep(0.01)
        due = self.spool.start + after
        gevent.sleep(max(due - time.monotonic(), 0.0))
        self._numbers = itertools.repeat(place + 1)
        self._pool = self._idle.pop() if self._idle else _pool(self.host)
        try:
            self._converse(place, due)
        finally:
            self._idle.append(self._pool)


def stop_users(runner: Any) -> None:
    """End the requests in flight, at once: Locust's own way looks around for up to a second before it does."""
    if isinstance(runner, LocalRunner):
        runner.user_greenlets.kill()
        runner.state = STATE_STOPPED
    else:
        runner.stop()


def can_read(sock: Any, timeout: float | None = None) -> bool:
    """What urllib3 asks of a kept connection before it sends; gevent's own way would let all other users go first."""
    poll = get_original("select", "poll")()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout and timeout * 1000))


def fill_collector(environment: Any, requests: list[SentRequest]) -> None:
    """Have genai-bench count the requests that have ended, for its own file."""
    handler, *_ = environment.runner.custom_messages["request_metrics"]
    for request in requests:
        if request.status != IN_FLIGHT:
            handler(environment, SimpleNamespace(data=_as_genai_bench(request)))


def _as_genai_bench(request: SentRequest) -> str:
    collector = RequestMetricsCollector()
    if request.error_code:
        collector.metrics.error_code = request.error_code if isinstance(request.error_code, int) else SERVER_ERROR
        collector.metrics.error_message = request.error_message
    else:
        response = UserChatResponse(
            status_code=200,
            tokens_received=request.output_tokens,
            time_at_first_token=request.first_token or request.sent,
            num_prefill_tokens=request.prompt_tokens or 0,
            start_time=request.sent,
            end_time=max(request.end or 0.0, (request.first_token or 0.0) + 1e-6),  # it divides by what is between
        )
        collector.calculate_metrics(response)
    return str(collector.metrics.model_dump_json())


def _words_of(response: Any, host: str) -> str:
    """What an error says, as far as it does in time and in few words."""
    if location := response.headers.get("location"):
        target = urljoin(host, location)
        where = routes.another_way(host, target) or shorten(target, 100)
        return f"it redirects to {where}: if that is right, give it as base_url"
    body = b""
    with gevent.Timeout(5.0, False):
        while len(body) < 1 << 18 and (piece := response.read1(_BLOCK)):
            body += piece
    return server_words(body.decode(errors="replace")) or response.reason or "no words"


def _why_broken(error: Exception) -> str:
    said = f"{type(error).__name__}: {error!r}"
    return next((words for regex, words in _BROKEN.items() if re.search(regex, said)), f"no connection: {error}")


def _pool(base_url: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": 1, "ca_certs": routes.certificates(None) or certifi.where()}
    proxy = routes.proxy(base_url)
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
