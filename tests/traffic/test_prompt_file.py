"""A user's prompts: read as they are meant, or refused with the file, the line and what is wrong with it."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import PathError, SpecError
from tuner.traffic import prompt_file
from tuner.traffic.prompt_file import read_prompt_file


@pytest.fixture
def read(tmp_path):
    """Read a file of this content; returns its requests as plain (turns of (role, text), max_tokens)."""

    def read(content, name="chat.jsonl", **asked):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = read_prompt_file(path, **asked)
        return [
            (
                [[(message["role"], message["content"]) for message in turn] for turn in request.turns],
                request.max_tokens,
            )
            for request in found.requests
        ]

    return read


def lines(*values):
    return "\n".join(json.dumps(value) for value in values)


def user(text):
    return {"role": "user", "content": text}


def test_prompts(read):
    content = lines({"prompt": "One"}, {"prompt": "Two", "max_tokens": 7})
    assert read(content) == [([[("user", "One")]], None), ([[("user", "Two")]], 7)]


def test_messages_with_a_system_message_and_text_in_parts(read):
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    content = lines({"messages": [{"role": "system", "content": "Be short."}, user(parts)]})
    assert read(content) == [([[("system", "Be short."), ("user", "Hello\nthere")]], None)]


def test_several_turns_are_a_conversation_without_the_answers_of_then(read):
    assistant = {"role": "assistant", "content": "…"}
    content = lines({"messages": [user("A"), assistant, user("B"), user("C"), assistant]})
    assert read(content) == [([[("user", "A")], [("user", "B")], [("user", "C")]], None)]


LOGS = {
    "batch": {"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages": [user("A")], "max_tokens": 9}},
    "log": {"request": {"model": "m", "messages": [user("A")], "max_completion_tokens": 9}, "response": {"id": "x"}},
    "body": {"model": "m", "messages": [user("A")], "max_tokens": 9, "temperature": 0.3, "stream": True},
    "completion": {"model": "m", "prompt": "A", "max_tokens": 9},
}


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
def test_logged_requests(read, log):
    assert read(lines(log)) == [([[("user", "A")]], 9)]


def test_text_has_a_prompt_a_line(read):
    expected = [([[("user", "One, two")]], None), ([[("user", "Three")]], None)]
    assert read("\ufeffOne, two\r\n\r\n  Three  \r\n", "prompts.txt") == expected


def test_json_lines_are_known_under_any_name(read):
    assert read('\n{"prompt": "A"}\n', "requests.log") == [([[("user", "A")]], None)]


def test_csv(read):
    assert read('id,prompt,max_tokens\n1,"A, ""B""\nC",5\n2,D,\n', "p.csv") == [
        ([[("user", 'A, "B"\nC')]], 5),
        ([[("user", "D")]], None),
    ]
    assert read("question\nA\n", "p.csv") == [([[("user", "A")]], None)]


def test_a_packed_file_is_the_same_and_called_by_what_is_in_it(read, tmp_path):
    content = lines({"prompt": "A"})
    plain = read(content, "a.jsonl")
    assert read(gzip.compress(content.encode()), "a.jsonl.gz") == plain
    names = [read_prompt_file(tmp_path / name).name for name in ("a.jsonl", "a.jsonl.gz")]
    assert [name.partition("#")[2] for name in names] == [names[0].partition("#")[2]] * 2
    assert names[0].startswith("a.jsonl#") and names[1].startswith("a.jsonl.gz#")


def test_fixed_lengths_are_another_workload(read, tmp_path):
    content = lines({"prompt": "A", "max_tokens": 3})
    read(content)
    assert len({read_prompt_file(tmp_path / "chat.jsonl", fixed=fixed).name for fixed in (True, False)}) == 2


def test_the_name_tells_contents_apart_and_is_one_word(read, tmp_path):
    read("A", "my, prompts (1).txt")
    one = read_prompt_file(tmp_path / "my, prompts (1).txt").name
    read("B", "my, prompts (1).txt")
    other = read_prompt_file(tmp_path / "my, prompts (1).txt").name
    assert one != other and one.partition("#")[0] == "my__prompts__1_.txt"


WRONG = {
    "no line": ("", "holds no prompt"),
    "blank lines": ("\n \n\t\n", "holds no prompt"),
    "no JSON": ('{"prompt": "A"}\n{"prompt": ', "line 2: "),
    "a list": ('{"prompt": "A"}\n\n["A"]', "line 3: no JSON object"),
    "a pretty-printed file": ('[\n {"prompt": "A"}\n]', "line 1: "),
    "neither": (lines({"text": "A"}), "line 1: neither prompt nor messages"),
    "an empty prompt": (lines({"prompt": " "}), "line 1: a prompt or message without text"),
    "a prompt of tokens": (lines({"prompt": [1, 2]}), "line 1: "),
    "no message": (lines({"messages": []}), "line 1: no message of a user"),
    "no user": (lines({"messages": [{"role": "system", "content": "A"}]}), "line 1: no message of a user"),
    "messages that are none": (lines({"messages": ["A"]}), "line 1: messages must be a list"),
    "a role nobody knows": (lines({"messages": [{"role": "robot", "content": "A"}]}), "'robot'"),
    "a tool": (lines({"messages": [user("A"), {"role": "assistant", "tool_calls": [{}]}, user("B")]}), "calls a tool"),
    "an image": (
        lines({"messages": [user([{"type": "image_url", "image_url": {}}])]}),
        "line 1: .*image_url.*only text",
    ),
    "embeddings": (lines({"body": {"model": "m", "input": "A"}}), "line 1: asks for embeddings; only text"),
    "a reranking": (lines({"query": "A", "documents": ["B"]}), "line 1: asks for a reranking; only text"),
    "max_tokens of 0": (lines({"prompt": "A", "max_tokens": 0}), "line 1: max_tokens must be a whole number"),
    "max_tokens that is true": (lines({"prompt": "A", "max_tokens": True}), "line 1: max_tokens"),
    "bytes": (b'{"prompt": "A"}\n{"prompt": "\xff"}', "line 2: no UTF-8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_sent_is_named_with_its_line(read, case):
    content, said = WRONG[case]
    with pytest.raises(SpecError, match=f"^prompts: .*chat.jsonl .*{said}") as error:
        read(content)
    assert "\n" not in str(error.value)


CSV = {
    "several columns": ("a,b\n1,2\n", "none is called prompt"),
    "a row that is too short": ("id,prompt\n1\n", "line 2: a message holds|line 2: a prompt or message without text"),
    "max_tokens of a word": ("prompt,max_tokens\nA,many\n", "line 2: max_tokens .* 'many'"),
    "a quote that never ends": ('prompt\n"A', "is no CSV"),
}


@pytest.mark.parametrize("case", CSV)
def test_a_csv_that_cannot_be_sent(read, case):
    content, said = CSV[case]
    with pytest.raises(SpecError, match=said):
        read(content, "p.csv")


def test_fixed_lengths_need_a_length(read):
    content = lines({"prompt": "A", "max_tokens": 4}, {"prompt": "B"})
    with pytest.raises(SpecError, match="line 2: no max_tokens, which output: fixed needs"):
        read(content, fixed=True)
    assert len(read(content)) == 2


def test_files_that_cannot_be_read(read, tmp_path):
    for name, said in {"none.jsonl": "No such file", ".": "no file, but a folder"}.items():
        with pytest.raises(PathError, match=said):
            read_prompt_file(tmp_path / name)
    for damaged in (b"no gzip", gzip.compress(b"x" * 1000)[:-9]):
        with pytest.raises(PathError, match=r"cannot read .*a\.txt\.gz"):
            read(damaged, "a.txt.gz")


def test_a_file_is_not_read_beyond_its_limit(read, monkeypatch):
    monkeypatch.setattr(prompt_file, "LARGEST", 2**20)
    with pytest.raises(SpecError, match="larger than 1 MiB unpacked"):
        read(gzip.compress(b"a\n" * 2**20), "bomb.txt.gz")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["prompt", "messages", "body", "role", "content", "type", "text", "max_tokens", "tool_calls"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.one_of(st.binary(max_size=60), st.lists(json_values, max_size=3).map(lambda values: lines(*values).encode())))
@settings(max_examples=400, deadline=None)
def test_any_content_is_read_or_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    try:
        found = read_prompt_file(path)
    except SpecError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert found.requests
        assert all(turn and turn[-1]["content"].strip() for request in found.requests for turn in request.turns)
