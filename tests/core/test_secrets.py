"""Keys: where a user must not write one down, and that no file, terminal or page of ours shows one."""

import json

import pytest
from support.commands import end_of

from tuner.core import files, secrets
from tuner.core.text import visible
from tuner.engines.base import ServerSpec
from tuner.errors import SpecError
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import SweepSpec, make_spec

#: a key that has no shape which gives it away
KEY = 'canary&5d1f0a<b>"q-77'

#: what somebody asks, and what is said to it
REFUSED = {
    "a parameter": ({"parameters": {"api_key": "abc"}}, "parameters: api_key is a key by its name"),
    "a parameter as a flag": ({"parameters": {"--hf-token": "abcdefgh"}}, "parameters: hf_token is a key by its name"),
    "a number": ({"parameters": {"api_key": 12345}}, "parameters: api_key is a key"),
    "a list": ({"parameters": {"api_key": ["a", "b"]}}, "parameters: api_key is a key"),
    "deep in parameters": ({"parameters": {"a": {"auth-key": "x"}}}, "parameters: a.auth-key is a key"),
    "in a list": ({"parameters": {"a": [{"password": "x"}]}}, "parameters: a.password is a key"),
    "by its shape": ({"parameters": {"a": "sk-proj-abc123def456"}}, "parameters: a holds what looks like an OpenAI"),
    "by its value": ({"parameters": {"a": f"x{KEY}"}}, "a holds the value of the environment variable MY_AUTH"),
    "request parameters": ({"request_parameters": {"user_secret": "x"}}, "request_parameters: user_secret is a key"),
    "a header": ({"request_parameters": {"extra_headers": {"Authorization": "x"}}}, "extra_headers.Authorization is"),
    "a command's flag": ({"command": ["s", "--api-key", "abc"]}, "command: it holds a value of --api-key"),
    "a command's flag with =": ({"command": "s --hf-token=abc"}, "command: it holds a value of --hf-token"),
    "a command's variable": ({"command": ["sh", "-c", "API_KEY='abc' exec s"]}, "command: it holds a value of API_KEY"),
    "a command's header": ({"command": ["curl", "-H", "X-Api-Key: abc"]}, "command: it holds a value of X-Api-Key"),
    "a stop command": ({"stop_command": ["curl", "http://me:abc@host/stop"]}, "stop_command: it holds a user or pass"),
    "a URL's user": ({"base_url": "http://abc@host:8000"}, "base_url: it holds a user or password in a URL"),
    "a URL's password": ({"base_url": "http://me:abc@host:8000"}, "base_url: it holds a user or password in a URL"),
    "a URL's query": ({"base_url": "http://host/v1?a=1&api_key=abc"}, "base_url: it holds a value of api_key"),
    "a hub's token": ({"environment": {"HF_TOKEN": "x"}}, "environment: HF_TOKEN is a key by its name"),
    "an old hub's token": ({"environment": {"HUGGING_FACE_HUB_TOKEN": "x"}}, "HUGGING_FACE_HUB_TOKEN is a key"),
    "a variable by its name": ({"environment": {"SOME_KEY": "abc"}}, "environment: SOME_KEY is a key by its name"),
    "a number as a variable": ({"environment": {"SOME_TOKEN": 123456789}}, "environment: SOME_TOKEN is a key"),
    "a variable by its value": ({"environment": {"A": KEY}}, "environment: A holds the value of the environment var"),
    "a variable by its shape": ({"environment": {"A": "hf_abcdefghijklmnop12"}}, "A holds what looks like a Hugging"),
    "a variable's URL": ({"environment": {"A": "http://me:abc@proxy"}}, "environment: A holds a user or password"),
    "a search's space": ({"space": {"api_key": ["a", "b"]}}, "space: api_key is a key by its name"),
    "a model": ({"model": "https://me:abc@hub/model"}, "model: it holds a user or password in a URL"),
    "a name": ({"name": KEY}, "name: it holds the value of the environment variable MY_AUTH"),
}


@pytest.mark.parametrize(("asked", "said"), REFUSED.values(), ids=REFUSED)
def test_a_key_that_is_written_down_is_refused_and_not_repeated(asked, said, monkeypatch):
    monkeypatch.setenv("MY_AUTH", KEY)
    kind = TuneSpec if "space" in asked else SweepSpec
    with pytest.raises(SpecError) as refused:
        make_spec({"engine": "command", "api_key_env": "MY_AUTH", **asked}, kind)
    message = str(refused.value)
    assert said in message and "keys are not written down" in message and "api_key_env" in message
    assert "\n" not in message and KEY not in message and "abc" not in message


HARMLESS = [
    {"environment": {"TOKENIZERS_PARALLELISM": "false", "MAX_NUM_BATCHED_TOKENS": "16384000", "KEYBOARD": "qwertyuio"}},
    {"environment": {"HF_TOKEN_PATH": "/run/token", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "MONKEY_PATCH": "yes"}},
    {"parameters": {"max_num_batched_tokens": 8192, "tokenizer_mode": "mistral", "eos_token": "<|im_end|>"}},
    {"parameters": {"cache_type_k": "q8_0", "kv_cache_dtype": "fp8", "hf_overrides": {"rope": "yarn_long"}}},
    {"request_parameters": {"stop_token_ids": [151643], "prompt_cache_key": "tuner-bench-1", "stop": ["token: x"]}},
    {"request_parameters": {"system_message": "Never tell the secret of the token that follows"}},
    {"command": ["sh", "-c", 'exec s --api-key "$MY_AUTH" --port {port} --max-tokens 100 token=$MY_AUTH']},
    {"command": "docker run -e MY_AUTH --rm --name {name} image --tokenizer org/model --token-budget 5"},
    {"base_url": "http://host:8000/v1", "model": "org/disk-usage-risk-1234567890"},
]


@pytest.mark.parametrize("asked", HARMLESS)
def test_what_is_no_key_is_let_through(asked, monkeypatch):
    monkeypatch.setenv("MY_AUTH", KEY)
    assert make_spec({"engine": "command", "api_key_env": "MY_AUTH", **asked})


@pytest.mark.parametrize("how", ["flags", "a file"])
@pytest.mark.parametrize("command", ["sweep", "tune"])
def test_the_command_line_refuses_before_anything_is_written(how, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asked.yaml").write_text(json.dumps({"parameters": {"api_key": KEY}}))
    asked = ["asked.yaml"] if how == "a file" else ["--parameters", json.dumps({"api_key": KEY})]
    code, out, err = end_of([command, *asked], monkeypatch, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and KEY not in err and "parameters: api_key" in err
    assert [path.name for path in tmp_path.iterdir()] == ["asked.yaml"]


def test_what_cannot_be_read_is_not_repeated_with_a_key():
    for wrong in ("{a: [sk-proj-abc123def456", "{api_key: 'abc", '{"hf_token": "abc"', ["MY_PASSWORD=abc"]):
        with pytest.raises(SpecError) as refused:
            make_spec({"parameters": wrong})
        assert "[redacted]" in str(refused.value) and "abc" not in str(refused.value)


def test_every_file_and_terminal_line_is_without_the_keys_that_are_known(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_AUTH", KEY)
    monkeypatch.setenv("SOME_TOKEN", "hub-0123456789")
    assert ServerSpec(engine="attach", api_key_env="MY_AUTH").api_key() == KEY
    said = {"a": f"before {KEY} after", f"{KEY}": ["hub-0123456789"]}
    files.write_json(tmp_path / "a.json", said)
    hidden = {"a": "before [redacted] after", "[redacted]": ["[redacted]"]}
    assert files.read_json(tmp_path / "a.json") == hidden == secrets.redactor()(said)
    assert visible(f"{KEY} \x1b") == "[redacted] \\x1b"


def test_words_and_numbers_of_our_own_are_no_keys_by_chance(tmp_path, monkeypatch):
    for name, value in {"A_KEY": "completed", "B_TOKEN": "1234567890", "C_SECRET": "none", "D_KEY": "x-1"}.items():
        monkeypatch.setenv(name, value)
    said = {"outcome": "completed", "number": 1234567890, "x-1": None}
    files.write_json(tmp_path / "a.json", said)
    assert files.read_json(tmp_path / "a.json") == said
