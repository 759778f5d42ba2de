"""What is sent: the same prompts for the same seed, of exactly the length asked for, sharing what was asked alone."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BYTE_TOKENIZER
from tokenizers import Tokenizer

from tuner.core.request_log import WORKLOAD_FILE
from tuner.engines.gguf import tokenizer_folder
from tuner.errors import SpecError
from tuner.traffic.prompt_file import Request
from tuner.traffic.workload import Prefix, Workload, most_tokens

BLOCK = 16  # tokens that a server caches together


@pytest.fixture(scope="module")
def folder(tiny_gguf):
    return str(tokenizer_folder(tiny_gguf))


@pytest.fixture(scope="module")
def encode(folder):
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture
def written(folder, tmp_path):
    """Write a level's file; returns its lines and hash."""

    def write(scenario="D(100,32)", level=4, repeat=1, number=50, **asked):
        sha256 = Workload(**{"tokenizer": folder, **asked}).write(tmp_path, scenario, level, repeat, number)
        return [json.loads(line) for line in (tmp_path / WORKLOAD_FILE).read_text().splitlines()], sha256

    return write


def texts(lines):
    return [line["turns"][0][0]["content"] for line in lines]


def test_a_line_has_one_turn_and_as_many_tokens_out_as_asked_for(written):
    lines, _ = written("D(100,32)")
    assert len(lines) == 50
    for line in lines:
        assert line == {"turns": [[{"role": "user", "content": line["turns"][0][0]["content"]}]]} | {
            "max_tokens": 32,
            "fixed": True,
        }


def test_the_same_seed_gives_the_same_prompts_in_the_same_order(written):
    assert written(seed=3) == written(seed=3)
    (one, first), (other, second) = written(seed=3), written(seed=4)
    assert first != second and not {*texts(one)} & {*texts(other)}


def test_every_level_and_repeat_has_prompts_of_its_own(written):
    drawn = [written(level=level, repeat=repeat) for level, repeat in ((1, 1), (2, 1), (2, 2), (2, 0))]
    assert len({text for lines, _ in drawn for text in texts(lines)}) == 4 * 50
    assert len({sha256 for _, sha256 in drawn}) == 4


def test_more_requests_begin_with_the_same(written):
    assert written(number=200)[0][:50] == written(number=50)[0]


@pytest.mark.parametrize("inputs", [1, 2, 16, 100, 1000])
def test_a_prompt_has_exactly_the_tokens_asked_for(written, encode, inputs):
    assert {len(encode(text)) for text in texts(written(f"D({inputs},8)")[0])} == {inputs}


def test_tokens_are_exact_where_no_word_is_one_token(tmp_path):
    tokenizer = Tokenizer.from_file(str(BYTE_TOKENIZER / "tokenizer.json"))
    Workload(tokenizer=str(BYTE_TOKENIZER)).write(tmp_path, "D(100,8)", 1, 1, 100)
    lines = [json.loads(line) for line in (tmp_path / WORKLOAD_FILE).read_text().splitlines()]
    assert {len(tokenizer.encode(text).ids) for text in texts(lines)} == {100}
    assert len({text[:BLOCK] for text in texts(lines)}) == 100


LENGTHS = {
    "N(200,50)/(80,20)": (1, 400, 2, 160, 200, 80),
    "U(50,100)/(20,40)": (50, 100, 20, 40, 75, 30),
    "U(100,40)": (1, 100, 2, 40, 50, 20),
}


@pytest.mark.parametrize("scenario", LENGTHS)
def test_lengths_are_distributed_as_the_scenario_says(written, encode, scenario):
    low_in, high_in, low_out, high_out, mean_in, mean_out = LENGTHS[scenario]
    lines = written(scenario, number=800)[0]
    inputs, outputs = [len(encode(text)) for text in texts(lines)], [line["max_tokens"] for line in lines]
    assert low_in <= min(inputs) and max(inputs) <= high_in
    assert low_out <= min(outputs) and max(outputs) <= high_out
    assert sum(inputs) / 800 == pytest.approx(mean_in, rel=0.07)
    assert sum(outputs) / 800 == pytest.approx(mean_out, rel=0.07)


def test_no_two_prompts_share_a_first_block(written, encode):
    lines = written(number=2000)[0]
    assert len({tuple(encode(text)[:BLOCK]) for text in texts(lines)}) == len(lines) == 2000
    first = [encode(text)[0] for text in texts(lines)]
    assert len({*first[:80]}) == 80  # while there are words that no prompt began with yet


def test_prompts_share_the_beginnings_that_were_asked_for(written, encode):
    lines = written(prefix=Prefix(tokens=150, groups=4), number=300)[0]
    tokens = [encode(text) for text in texts(lines)]
    assert {len(each) for each in tokens} == {250}
    assert len({tuple(each[:150]) for each in tokens}) == 4
    assert len({tuple(each[: 150 + BLOCK]) for each in tokens}) == 300


def test_beginnings_are_the_same_at_every_level(written):
    prefix = Prefix(tokens=40, groups=2)
    drawn = [texts(written("D(20,8)", level, prefix=prefix)[0]) for level in (1, 8)]
    begun = [{text.rsplit(" ", 20)[0] for text in each} for each in drawn]
    assert begun[0] == begun[1] and len(begun[0]) == 2


def test_own_prompts_that_run_out_come_again_with_a_counter(written):
    sent = texts(written("chat.jsonl#00000000", requests=own(3), number=8)[0])
    assert sent[3:] == [*(f"(2) {text}" for text in sent[:3]), *(f"(3) {text}" for text in sent[:2])]


def own(number):
    return tuple(Request([[{"role": "user", "content": f"prompt {each}"}]], each + 1) for each in range(number))


def test_own_prompts_come_in_an_order_of_the_seed_each_once(written):
    lines, sha256 = written("chat.jsonl#00000000", requests=own(40), number=40)
    assert sorted(texts(lines)) == sorted(f"prompt {each}" for each in range(40))
    assert texts(lines) != [f"prompt {each}" for each in range(40)]
    assert all(line["turns"][0][0]["content"] == f"prompt {line['max_tokens'] - 1}" for line in lines)
    assert written("chat.jsonl#00000000", requests=own(40), number=40) == (lines, sha256)
    assert written("chat.jsonl#00000000", requests=own(40), number=40, seed=1)[1] != sha256


def test_own_prompts_need_no_tokenizer(written):
    assert len(written("chat.jsonl#00000000", requests=own(3), tokenizer="/none")[0]) == 50


def test_a_conversation_has_its_beginning_once(written):
    turns = [[{"role": "system", "content": "S"}, {"role": "user", "content": "A"}], [{"role": "user", "content": "B"}]]
    ((line,), _) = written("c#00000000", requests=(Request(turns),), prefix=Prefix(tokens=5), number=1)
    assert line["turns"][0][0]["content"].endswith(" S")
    assert [message["content"] for turn in line["turns"] for message in turn][1:] == ["A", "B"]


def test_a_file_stays_small_whatever_is_asked_for(written, tmp_path):
    assert len(written("D(4000,8)", number=10**9)[0]) > 1000
    assert 32 * 2**20 < (tmp_path / WORKLOAD_FILE).stat().st_size < 33 * 2**20
    assert len(written("D(4,8)", number=10**9)[0]) == 4096
    assert len(written(number=0)[0]) == 1


@pytest.mark.parametrize("tokenizer", ["", "/none", "~/none", "./none"])
def test_a_tokenizer_that_is_missing_is_refused(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SpecError, match=r"tokenizer: .* give a folder or a hub id"):
        Workload(tokenizer=tokenizer).write(tmp_path, "D(8,8)", 1, 1, 1)


@given(seed=st.integers(0, 2**31), inputs=st.integers(1, 300), number=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_any_seed_and_length(seed, inputs, number, folder, encode, tmp_path_factory):
    place = tmp_path_factory.mktemp("level")
    Workload(seed=seed, tokenizer=folder).write(place, f"D({inputs},2)", 1, 1, number)
    lines = [json.loads(line) for line in (place / WORKLOAD_FILE).read_text().splitlines()]
    assert len(lines) == number and {len(encode(text)) for text in texts(lines)} == {inputs}


def test_the_fingerprint_tells_workloads_apart(folder):
    def sha256(*scenarios, **asked):
        return Workload(**{"tokenizer": folder, **asked}).fingerprint(list(scenarios or ["D(16,8)"]))["sha256"]

    different = [
        sha256(),
        sha256(seed=1),
        sha256("D(16,9)"),
        sha256("D(16,8)", "D(17,8)"),
        sha256(prefix=Prefix(tokens=8)),
        sha256(fixed=False),
    ]
    assert len({*different}) == len(different) and sha256() == sha256()


MOST = {"D(100,32)": 132, "N(480,240)/(300,150)": 780, "U(50,100)/(200,250)": 350, "U(100,40)": 140, "c#00000000": 0}


@pytest.mark.parametrize("scenario", MOST)
def test_how_long_a_request_of_a_scenario_is(scenario):
    assert most_tokens(scenario) == most_tokens(f"{scenario}+prefix(7,3)") == MOST[scenario]


def test_writing_a_level_holds_up_nobody(folder, tmp_path):
    workload = Workload(tokenizer=folder)
    workload.write(tmp_path, "D(100,32)", 1, 1, 1)  # reads the tokenizer, once a trial
    began = time.process_time()
    workload.write(tmp_path, "D(100,32)", 64, 1, 64)
    assert time.process_time() - began < 0.3


def test_drawing_leaves_the_dice_of_others_alone(written):
    random.seed(5)
    state = random.getstate()
    written()
    assert random.getstate() == state
