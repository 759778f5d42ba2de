"""The tokenizer that sizes prompts: a folder, a GGUF file, or a name on the model hub; checked, and read."""

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tuner.core.text import one_line, shorten
from tuner.engines import gguf
from tuner.engines.base import without_tilde
from tuner.errors import SpecError
from tuner.servers import http

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FILE = "tokenizer.json"
#: by one of these files a folder is known to hold a tokenizer
_FILES = ("tokenizer*", "vocab.*", "*.tiktoken", "tekken.json", "spiece.model", "sentencepiece*.model")
_LEAST_TOKENS = 32  # `transformers` makes one of three out of a configuration alone
_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_WHAT_TO_DO = "give the folder of the model's tokenizer, or its name there, with tokenizer"


def check_tokenizer(name: str) -> str:
    """The tokenizer that `name` means: a folder, a GGUF file, or a name on the hub; SpecError where there is none."""
    path = Path(without_tilde(name))
    if path.suffix == ".gguf" and path.is_file():
        return str(gguf.tokenizer_folder(path))
    if path.is_dir():
        if _has_tokenizer(path):
            return str(path) if name.startswith("~") else name
        raise SpecError(f"tokenizer: the folder {name} holds none (tokenizer.json or tokenizer.model); give another")
    if path.is_file():
        raise SpecError(f"tokenizer: {name} is a file; give its folder")
    if name.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(name):
        raise SpecError(f"tokenizer: {name!r} is no folder that is there, and no name on the model hub; {_WHAT_TO_DO}")
    if not is_at_hand(name):
        _ask_hub(name)
    return name


def is_at_hand(name: str) -> bool:
    """Whether nothing has to be fetched for this tokenizer."""
    if Path(name).is_dir():
        return True
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any(map(_has_tokenizer, (cache / f"models--{name.replace('/', '--')}" / "snapshots").glob("*")))


def _has_tokenizer(folder: Path) -> bool:
    return any(path for pattern in _FILES for path in folder.glob(pattern))


def _ask_hub(name: str) -> None:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            raise SpecError(f"tokenizer: {name!r} is not in the cache, and {variable} is set; {_WHAT_TO_DO}")
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        with http.client(hub, os.environ.get("HF_TOKEN"), timeout=5.0) as client:
            answer = client.head(f"/{name}/resolve/main/tokenizer_config.json")
    except (httpx.HTTPError, http.NotReady) as error:
        why = one_line(str(error))
        raise SpecError(f"tokenizer: {hub} cannot be asked for {name!r} ({why}); {_WHAT_TO_DO}") from None
    code = answer.headers.get("x-error-code")
    if answer.is_error and code != "EntryNotFound":  # older ones have other files
        what = "gives it only to some (set HF_TOKEN)" if code == "GatedRepo" else "has none"
        raise SpecError(f"tokenizer: {hub} {what}: {name!r} ({answer.status_code}); {_WHAT_TO_DO}")


def load_tokenizer(name: str) -> "Tokenizer":
    """The tokenizer of a folder or hub id, by `transformers` (slow) where nothing else reads it; SpecError for none."""
    from tokenizers import Tokenizer

    try:
        if file := _tokenizer_file(name):
            tokenizer = Tokenizer.from_file(file)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(Path(name).expanduser()).backend_tokenizer
        if (size := tokenizer.get_vocab_size()) < _LEAST_TOKENS:
            raise ValueError(f"a vocabulary of {size} tokens: some of its files are missing")
    except Exception as error:  # tokenizers itself raises nothing narrower
        reason = shorten(str(error), 200)
        raise SpecError(f"tokenizer: {name} has none that can be read ({reason}); give a folder or a hub id") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokenizer_file(name: str) -> str | None:
    """The `tokenizer.json` of a folder or hub id, first looked for in the hub's cache; None where it has none."""
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith(("/", "~", ".")):
        file = folder / _FILE
        return str(file) if file.is_file() or not folder.is_dir() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for is_offline in (True, False):
        with contextlib.suppress(EntryNotFoundError):
            return hf_hub_download(name, _FILE, local_files_only=is_offline)
    return None
