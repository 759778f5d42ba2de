"""A run directory that somebody sent is a program: it is resumed only by one who was told what it does."""

import json
import os
from pathlib import Path

import pytest
from support.commands import end_of, run
from support.side_by_side import faulty

from tuner.core.run_directory import Experiment
from tuner.sweep.prepare import prepare
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import recorded
from tuner.sweep.trust import signed


@pytest.fixture
def begun(tmp_path):
    """A run that this user has begun here, with a command that does more than it should; nothing was measured."""
    asked = faulty(levels=[1], scenarios=["D(20,8)"], max_seconds=1, api_key_env="MY_KEY")
    asked["command"] = ["sh", "-c", f'touch {tmp_path}/was-here; exec "$@"', "sh", *asked["command"]]
    asked |= {"stop_command": ["touch", "\x1b[2Kgone"], "environment": {"LD_PRELOAD": "evil.so"}}
    return begin(tmp_path / "run", asked)


def begin(folder, asked):
    experiment = Experiment.at(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_KEY", "k" * 20)
        with recorded(experiment, prepare(make_spec(asked))):
            pass
    return experiment


def resume(experiment, monkeypatch, capsys, *flags):
    monkeypatch.setenv("MY_KEY", "k" * 20)
    return end_of(["sweep", "--resume", str(experiment.folder), *flags], monkeypatch, capsys)


def as_another_user(experiment, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))


def with_another_command(experiment, monkeypatch, tmp_path):
    spec = experiment.facts["spec"]
    experiment.describe(spec=spec | {"command": [*spec["command"], "more"]})


def from_another_host(experiment, monkeypatch, tmp_path):
    experiment.describe(made_by=experiment.facts["made_by"] | {"host": "elsewhere"})


def by_an_earlier_version(experiment, monkeypatch, tmp_path):
    facts = experiment.facts
    del facts["made_by"]
    (experiment.folder / "experiment.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("change", [as_another_user, with_another_command, from_another_host, by_an_earlier_version])
def test_what_was_not_made_here_is_refused_with_all_that_it_would_do(change, begun, tmp_path, monkeypatch, capsys):
    change(begun, monkeypatch, tmp_path)
    code, out, err = resume(begun, monkeypatch, capsys)
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert (
        f"run `LD_PRELOAD=evil.so {begun.facts['spec']['command'][0]}" in err.replace("/usr/bin/", "")
        and "was-here" in err
    )
    assert "run `touch '\\x1b[2Kgone'` after it, give the key in MY_KEY to that server" in err and "\x1b" not in err
    assert "--trust" in err and "k" * 20 not in err
    assert not (tmp_path / "was-here").exists()


def test_to_whom_a_key_would_be_sent(tmp_path, monkeypatch, capsys):
    begun = begin(tmp_path / "run", faulty() | {"engine": "attach", "command": None, "base_url": "http://127.0.0.1:9"})
    as_another_user(begun, monkeypatch, tmp_path)
    code, _, err = resume(begun, monkeypatch, capsys, "--api-key-env", "MY_KEY")
    assert code == 2 and "api_key_env" in err  # another one is another run
    spec = make_spec(begun.facts["spec"] | {"api_key_env": "MY_KEY"})
    begun.describe(spec=spec.model_dump(mode="json", exclude_none=True))
    code, _, err = resume(begun, monkeypatch, capsys)
    assert "send requests to http://127.0.0.1:9, give the key in MY_KEY to http://127.0.0.1:9" in err


@pytest.mark.real
def test_what_is_trusted_goes_on(tmp_path):
    begun = begin(tmp_path / "run", faulty(levels=[1], scenarios=["D(20,8)"], max_seconds=1))
    other = {"XDG_STATE_HOME": str(tmp_path / "other")}
    code, _, err = run(tmp_path, "sweep", "--resume", begun.folder, "--trust", **other)
    assert code == 0 and "was not made here" in err and "faulty_server.py" in err


def test_what_was_made_here_needs_no_word_and_the_token_is_the_users_alone(begun):
    assert signed(make_spec(begun.facts["spec"]))["made_by"] == begun.facts["made_by"]
    token = Path(os.environ["XDG_STATE_HOME"], "tuner", "token")
    assert token.stat().st_mode & 0o077 == 0 and token.read_bytes().hex() not in json.dumps(begun.facts)
