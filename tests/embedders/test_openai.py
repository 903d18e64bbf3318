"""The HTTP embedder against a real server on this machine that can be told to misbehave."""

from __future__ import annotations

import json
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from shelflist.core.errors import ConfigError, EmbedderError, EmbedderUnavailable, Transient
from shelflist.embedders import Embedder, resolve_embedder

pytest.importorskip("httpx", reason="the extra 'openai' (httpx) is not installed")
from shelflist.embedders.openai import OPENAI_URL, OpenAIEmbedder, _retry_after

KEY = "sk-secretsecret1234567890"
QUERY = "Represent this sentence for searching relevant passages: "


def vector_of(text: str, dimensions: int) -> list[float]:
    return [float(len(text)), *([float(sum(text.encode()) % 97)] * (dimensions - 1))]


class Endpoint:
    """Answers rightly, unless `script` holds what to do with the next requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: list[Callable[[Any, dict[str, Any]], None]] = []
        self.dimensions = 4
        self.released = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body["path"] = self.path
                endpoint.requests.append(body)
                endpoint.headers.append(dict(self.headers))
                (endpoint.script.pop(0) if endpoint.script else right)(self, body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

        def right(handler: Any, body: dict[str, Any]) -> None:
            d = body.get("dimensions", endpoint.dimensions)
            send(
                handler,
                200,
                {"data": [{"index": i, "embedding": vector_of(t, d)} for i, t in enumerate(body["input"])]},
            )

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def send(handler: Any, status: int, body: object, **headers: str) -> None:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def says(status: int, message: str = "no", code: str = "", **headers: str) -> Callable[[Any, dict[str, Any]], None]:
    return lambda handler, body: send(handler, status, {"error": {"message": message, "code": code}}, **headers)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("THE_KEY", KEY)
    server = Endpoint()
    yield server
    server.close()


class Clock:
    def __init__(self) -> None:
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(endpoint: Endpoint, clock: Clock) -> Iterator[Callable[..., OpenAIEmbedder]]:
    made: list[OpenAIEmbedder] = []

    def open_(model: str = "some-model", **options: Any) -> OpenAIEmbedder:
        options = {"base_url": endpoint.url, "api_key_env": "THE_KEY", "jitter": lambda: 1.0, **options}
        made.append(OpenAIEmbedder(model, sleep=clock.sleep, **options))
        return made[-1]

    yield open_
    for embedder in made:
        embedder.close()


def test_texts_become_vectors_in_order(endpoint, opened):
    embedder = opened()
    texts = ["a", "bbb", "cc"]
    vectors = embedder.embed_documents(texts)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [vector_of(text, 4) for text in texts]
    assert endpoint.requests == [{"model": "some-model", "input": texts, "path": "/v1/embeddings"}]
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert isinstance(embedder, Embedder)
    assert embedder.embed_documents([]).shape == (0, 4)
    assert embedder.embed_query("bbb").tolist() == vectors[1].tolist()


def test_a_mixed_up_order_is_put_right(endpoint, opened):
    def reversed_(handler: Any, body: dict[str, Any]) -> None:
        data = [{"index": i, "embedding": vector_of(t, 4)} for i, t in enumerate(body["input"])]
        send(handler, 200, {"data": data[::-1]})

    endpoint.script = [reversed_]
    texts = ["a", "bbb", "cc"]
    assert opened().embed_documents(texts).tolist() == [vector_of(text, 4) for text in texts]


def test_dimensions_are_learned_once_and_named(endpoint, opened):
    endpoint.dimensions = 7
    embedder = opened()
    assert len(endpoint.requests) == 0
    assert embedder.dimensions == 7 and embedder.dimensions == 7
    assert "dimensions=7" in embedder.fingerprint
    assert len(endpoint.requests) == 1
    endpoint.dimensions = 5
    with pytest.raises(EmbedderError, match="5 dimensions, 7 were"):
        embedder.embed_documents(["x"])


def test_given_dimensions_are_sent_and_checked(endpoint, opened):
    embedder = opened(dimensions=3)
    assert embedder.dimensions == 3 and endpoint.requests == []
    assert embedder.embed_documents(["x"]).shape == (1, 3)
    assert endpoint.requests[0]["dimensions"] == 3
    endpoint.script = [lambda h, b: send(h, 200, {"data": [{"index": 0, "embedding": [1.0] * 8}]})]
    with pytest.raises(EmbedderError, match="8 dimensions, 3 were"):
        embedder.embed_documents(["x"])


def test_batches_by_count_and_by_size(endpoint, opened):
    embedder = opened(batch_size=2)
    texts = ["a", "b", "c", "d", "e"]
    assert embedder.embed_documents(texts)[:, 0].tolist() == [1.0] * 5
    assert [request["input"] for request in endpoint.requests] == [["a", "b"], ["c", "d"], ["e"]]
    endpoint.requests.clear()
    sizes = [300_000, 90_000, 90_000, 500_000, 1]
    vectors = opened().embed_documents(["x" * n for n in sizes])
    assert vectors[:, 0].tolist() == sizes
    assert [[len(text) for text in r["input"]] for r in endpoint.requests] == [
        [300_000, 90_000],
        [90_000],
        [500_000],
        [1],
    ]


@pytest.mark.parametrize("status", [413, 422])
def test_an_endpoint_that_takes_fewer_texts_gets_fewer(endpoint, opened, status):
    def at_most_two(handler: Any, body: dict[str, Any]) -> None:
        if len(body["input"]) > 2:
            says(status, "batch size > maximum allowed batch size 2")(handler, body)
        else:
            data = [{"index": i, "embedding": vector_of(t, 4)} for i, t in enumerate(body["input"])]
            send(handler, 200, {"data": data})

    endpoint.script = [at_most_two] * 20
    embedder = opened(batch_size=8)
    texts = [str(10**i) for i in range(8)]
    assert embedder.embed_documents(texts).tolist() == [vector_of(text, 4) for text in texts]
    assert embedder.batch_size == 2
    before = len(endpoint.requests)
    embedder.embed_documents(texts)
    assert len(endpoint.requests) - before == 4
    endpoint.script = [says(status, "one text is too long")]
    with pytest.raises(EmbedderError, match="one text is too long"):
        embedder.embed_documents(["x"])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_busy_is_tried_again_with_growing_waits(endpoint, opened, clock, status):
    endpoint.script = [says(status)] * 3
    assert opened().embed_documents(["abc"])[0, 0] == 3.0
    assert len(endpoint.requests) == 4
    assert clock.waits == [0.5, 1.0, 2.0]


def test_jitter_spreads_the_waits(endpoint, opened, clock):
    endpoint.script = [says(500)] * 2
    opened(jitter=lambda: 0.0).embed_documents(["abc"])
    assert clock.waits == [0.25, 0.5]


def test_retry_after_is_obeyed(endpoint, opened, clock):
    endpoint.script = [
        says(429, Retry_After="7"),
        says(503, Retry_After=formatdate(time.time() + 30, usegmt=True)),
        says(429, Retry_After="soon"),
    ]
    opened().embed_documents(["abc"])
    assert clock.waits[0] == 7.0 and 20 < clock.waits[1] <= 30 and clock.waits[2] == 2.0
    assert _retry_after(None) is None and _retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0


def test_a_very_long_retry_after_is_told_and_not_waited_for(endpoint, opened, clock):
    endpoint.script = [says(429, "daily limit", Retry_After="86400")]
    with pytest.raises(EmbedderUnavailable, match=r"wait 86400 s.*daily limit"):
        opened().embed_documents(["abc"])
    assert clock.waits == []


def test_giving_up_names_endpoint_reason_and_next_step_and_is_transient(endpoint, opened, clock):
    endpoint.script = [says(500, "out of memory")] * 3
    with pytest.raises(EmbedderUnavailable) as caught:
        opened(attempts=3).embed_documents(["abc"])
    for part in (endpoint.url, "some-model", "3 tries", "HTTP 500", "out of memory", "run the same command again"):
        assert part in str(caught.value)
    assert isinstance(caught.value, Transient)
    assert len(endpoint.requests) == 3 and len(clock.waits) == 2


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "longer than the model"),
        (401, "THE_KEY"),
        (403, "THE_KEY"),
        (404, "/v1"),
        (409, "name and options"),
        (501, "name and options"),
    ],
)
def test_a_refusal_is_final(endpoint, opened, clock, status, advice):
    endpoint.script = [says(status, f"bad thing {KEY} or sk-secr*****7890")]
    with pytest.raises(EmbedderError) as caught:
        opened().embed_documents(["abc"])
    assert not isinstance(caught.value, Transient)
    assert f"HTTP {status}: bad thing" in str(caught.value) and advice in str(caught.value)
    assert "secr" not in str(caught.value)
    assert len(endpoint.requests) == 1 and clock.waits == []


def test_an_empty_account_is_final_although_it_is_a_429(endpoint, opened, clock):
    endpoint.script = [says(429, "You exceeded your quota", "insufficient_quota")]
    with pytest.raises(EmbedderError, match="no quota left") as caught:
        opened().embed_documents(["abc"])
    assert not isinstance(caught.value, Transient) and clock.waits == []


def test_dimensions_that_the_model_cannot_make(endpoint, opened):
    endpoint.script = [says(400, "this model does not support specifying dimensions")]
    with pytest.raises(EmbedderError, match="leave the option dimensions out"):
        opened(dimensions=3).embed_documents(["abc"])


def test_no_answer_in_time_is_tried_again(endpoint, opened, clock):
    endpoint.script = [lambda handler, body: endpoint.released.wait(20)]
    embedder = opened(timeout=0.2)
    assert embedder.embed_documents(["abc"])[0, 0] == 3.0
    assert len(endpoint.requests) == 2 and len(clock.waits) == 1
    endpoint.script = [lambda handler, body: endpoint.released.wait(20)] * 2
    with pytest.raises(EmbedderUnavailable, match=r"no answer within 0\.2 s"):
        opened(timeout=0.2, attempts=2).embed_documents(["abc"])


def test_a_dropped_connection_is_tried_again(endpoint, opened, clock):
    def drop(handler: Any, body: dict[str, Any]) -> None:
        handler.close_connection = True

    endpoint.script = [drop]
    assert opened().embed_documents(["abc"])[0, 0] == 3.0
    assert len(clock.waits) == 1


def test_nobody_listens(clock, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Endpoint()
    server.close()
    embedder = OpenAIEmbedder("m", base_url=server.url, attempts=2, sleep=clock.sleep)
    with pytest.raises(EmbedderUnavailable, match="2 tries"):
        embedder.embed_query("x")
    embedder.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([{"index": 0, "embedding": [1.0, 2.0]}], r"1 vectors for 3 texts; the first missing one is number 1"),
        ([{"index": i, "embedding": [1.0, 2.0]} for i in (0, 2, 2)], r"first missing one is number 1"),
        ([{"index": i, "embedding": [1.0, 2.0]} for i in range(4)], r"4 vectors for 3 texts"),
        ([{"index": i, "embedding": [1.0] * (i + 1)} for i in range(3)], r"one length"),
        ([{"index": i, "embedding": [float("nan"), 1.0]} for i in range(3)], r"NaN"),
        ([{"index": i} for i in range(3)], r"not OpenAI's format"),
    ],
)
def test_an_answer_that_is_not_one_vector_a_text_is_refused(endpoint, opened, clock, data, reason):
    endpoint.script = [lambda handler, body: send(handler, 200, {"data": data})]
    with pytest.raises(EmbedderError, match=reason):
        opened().embed_documents(["a", "b", "c"])
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("body", ["<html>hello</html>", "[]", '{"object": "list"}', "null"])
def test_an_answer_of_another_kind_is_refused(endpoint, opened, body):
    endpoint.script = [lambda handler, _: send(handler, 200, body)]
    with pytest.raises(EmbedderError, match="not OpenAI's format"):
        opened().embed_documents(["a"])


def test_the_key_is_shown_nowhere(endpoint, opened, caplog):
    caplog.set_level(logging.DEBUG)
    embedder = opened()
    endpoint.script = [says(500, f"key {KEY}"), says(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(EmbedderError) as caught:
        embedder.embed_documents(["abc"])
    assert len(endpoint.requests) == 2
    shown = [repr(embedder), str(embedder.__dict__), embedder.spec, str(caught.value), repr(caught.value), caplog.text]
    assert all(KEY not in text for text in shown)
    assert "HTTP 500" in caplog.text


def test_a_used_embedder_can_be_sent_to_another_process_without_its_key(endpoint):
    embedder = OpenAIEmbedder("m", base_url=endpoint.url, api_key_env="THE_KEY")
    embedder.embed_query("x")
    sent = pickle.dumps(embedder)
    received = pickle.loads(sent)
    assert received.embed_query("xyz")[0] == 3.0
    assert KEY.encode() not in sent and b"THE_KEY" in sent
    embedder.close()
    received.close()


def test_which_key_is_sent_where(endpoint, opened, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-only-000")
    opened(api_key_env=None).embed_query("x")
    assert "Authorization" not in endpoint.headers[-1]
    opened(api_key_env="OPENAI_API_KEY").embed_query("x")
    assert endpoint.headers[-1]["Authorization"] == "Bearer sk-openai-only-000"
    monkeypatch.delenv("OPENAI_API_KEY")
    for embedder in (opened(api_key_env="OPENAI_API_KEY"), OpenAIEmbedder("text-embedding-3-small")):
        with pytest.raises(ConfigError, match=r"export OPENAI_API_KEY=…"):
            embedder.embed_query("x")
    assert len(endpoint.requests) == 2
    endpoint.script = [says(401, "who are you?")]
    with pytest.raises(EmbedderError, match=r"No key was sent: .*api_key_env=NAME"):
        opened(api_key_env=None).embed_query("x")


def test_prompts_are_put_in_front_and_named_in_the_fingerprint(endpoint, opened):
    embedder = opened("BAAI/bge-base-en-v1.5")
    embedder.embed_query("q")
    embedder.embed_documents(["d"])
    assert [request["input"] for request in endpoint.requests] == [[QUERY + "q"], ["d"]]
    other = opened("BAAI/bge-base-en-v1.5", query_prefix="")
    other.embed_query("q")
    assert endpoint.requests[-1]["input"] == ["q"]
    assert embedder.fingerprint != other.fingerprint


def test_the_spec_opens_it_again(endpoint, opened):
    embedder = resolve_embedder(
        f"openai:org/model?base_url={endpoint.url}&dimensions=6&api_key_env=THE_KEY&query_prefix=q:%20"
    )
    again = resolve_embedder(embedder.spec)
    assert again.spec == embedder.spec and again.fingerprint == embedder.fingerprint
    assert again.embed_query("x").shape == (6,)
    assert endpoint.requests[-1]["input"] == ["q: x"] and endpoint.requests[-1]["model"] == "org/model"
    assert resolve_embedder("openai:text-embedding-3-small").base_url == OPENAI_URL
    for each in (embedder, again):
        each.close()


def test_what_it_says_of_itself(opened):
    embedder = opened("text-embedding-3-small")
    assert embedder.max_tokens == 8191 and embedder.fusion_alpha == 0.7
    assert opened().max_tokens is None
    counts = embedder.token_counts(["", "one two three", "x" * 400])
    assert counts[0] == 0 and counts[1] == 3 and counts[2] == 100


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:8080", "http://HOST"),
        ("ftp://host/v1", "http://HOST"),
        ("http://user:hunter2@host/v1", "api_key_env"),
        ("https://host/v1?key=hunter2", "api_key_env"),
    ],
)
def test_a_base_url_that_cannot_be_used_or_holds_a_secret(url, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        OpenAIEmbedder("m", base_url=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
def test_a_child_opens_its_own_connection(opened):
    embedder = opened()
    embedder.embed_query("x")
    client = embedder._http()
    assert embedder._http() is client
    embedder._client = (os.getpid() + 1, client)
    assert embedder._http() is not client
    client.close()
