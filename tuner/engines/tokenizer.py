"""The tokenizer folder that genai-bench sizes its prompts with, made from a GGUF's own vocabulary.

Needs neither torch nor network. Token counts in results come from the server, so the folder only has to come close;
where the GGUF's pre-tokenizer is one we know, it is exact.
"""

import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from tuner.engines.weights import cache_folder, check_gguf
from tuner.errors import SpecError

_log = logging.getLogger(__name__)

_CONTROL = 3  # the token type of special tokens in a GGUF
_DIGITS_APART = ("smollm", "default")
#: how llama.cpp's named pre-tokenizers split text, where they differ from GPT-2's
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST, "qwen2": _WORDS + r"\p{N}" + _REST}
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_folder(gguf: Path) -> Path:
    """A Hugging Face tokenizer folder for the model in `gguf`, kept in the user's cache.

    Args:
        gguf: the model file.

    Returns:
        A folder with `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        SpecError: `gguf` is no GGUF file, or has a vocabulary of a kind that is not supported.
    """
    stat = check_gguf(gguf).resolve().stat()
    identity = f"{gguf.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()
    kept = cache_folder("tokenizers") / hashlib.sha256(identity).hexdigest()[:16]
    if not (kept / "tokenizer_config.json").exists():
        _build(gguf, kept)
    return kept


def _build(gguf: Path, kept: Path) -> None:
    """Write the folder aside and rename it, so that nobody reads half of it."""
    fields = _fields(gguf)
    tokenizer = _tokenizer(fields, gguf)
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=kept.parent))
    tokenizer.save(str(aside / "tokenizer.json"))
    (aside / "tokenizer_config.json").write_text(json.dumps(_config(fields), indent=2))
    try:
        aside.rename(kept)
    except OSError:  # another process was faster
        _log.debug("%s is there already", kept)


def _fields(gguf: Path) -> dict[str, Any]:
    """The GGUF's tokenizer fields and its context length."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    wanted = [name for name in reader.fields if name.startswith("tokenizer.") or name.endswith(".context_length")]
    return {name: reader.fields[name].contents() for name in wanted}


def _tokenizer(fields: dict[str, Any], gguf: Path) -> Any:
    """A `tokenizers.Tokenizer` of the GGUF's vocabulary."""
    kind = fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(fields)
    elif kind == "llama":
        tokenizer = _sentence_piece(fields)
    else:
        raise SpecError(f"model {gguf} has a vocabulary of kind {kind!r}; give a tokenizer folder with --tokenizer")
    _mark_special(tokenizer, fields)
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


def _mark_special(tokenizer: Any, fields: dict[str, Any]) -> None:
    from tokenizers import AddedToken

    typed = zip(fields["tokenizer.ggml.tokens"], fields.get("tokenizer.ggml.token_type", []), strict=False)
    special = [AddedToken(token, special=True, normalized=False) for token, kind in typed if kind == _CONTROL]
    tokenizer.add_special_tokens(special)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    numbers = {ours: fields.get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in _SPECIAL.items()}
    named = {ours: tokens[int(number)] for ours, number in numbers.items() if number is not None}
    length = next((value for name, value in fields.items() if name.endswith(".context_length")), 4096)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(length),
        "clean_up_tokenization_spaces": False,
        "chat_template": fields.get("tokenizer.chat_template"),
        **named,
    }
