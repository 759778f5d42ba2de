"""What a model must have of each GPU before it serves one request, by arithmetic alone, and never too much."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from tuner.core.files import read_object, read_struct

#: models in all layers of which every token's keys and values are kept, unless a window slides
_KEEP_ALL = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3", "granite")
_HALVES = ("float16", "bfloat16")


class Config(msgspec.Struct, frozen=True):
    """A model's `config.json`, as far as it says how much memory the model takes."""

    model_type: str = ""
    num_hidden_layers: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    hidden_size: int = 0
    head_dim: int | None = None
    max_position_embeddings: int = 0
    sliding_window: int | None = None
    use_sliding_window: bool = True
    torch_dtype: str | None = None
    dtype: str | None = None
    quantization_config: dict[str, Any] | None = None

    @classmethod
    def of(cls, model: str) -> "Config":
        """That of a model's folder, or of a hub id that is in the cache; empty where neither is there."""
        return read_struct(_file(model, "config.json"), cls) or cls()

    def weights(self, model: str) -> float:
        """Bytes of its weights as they are loaded; 0 where its files do not tell."""
        alone, stored = _file(model, "model.safetensors"), 0
        match read_object(_file(model, "model.safetensors.index.json")):
            case {"metadata": {"total_size": int(stored)}}:
                pass
            case _ if alone.is_file():
                stored = alone.stat().st_size
        is_small = self.quantization_config is not None or (self.dtype or self.torch_dtype) in _HALVES
        return stored if is_small else stored / 2  # 32 bits are loaded as 16

    def cache(self, tokens: int, dtype: str) -> float:
        """Bytes of a sequence's KV cache: keys and values · layers · heads · size of a head · tokens; 0 for unknown."""
        slides = self.sliding_window is not None and self.use_sliding_window
        if self.model_type not in _KEEP_ALL or slides or not self.num_attention_heads:
            return 0.0
        is_half = dtype in ("auto", *_HALVES) and self.quantization_config is None
        size = self.head_dim or self.hidden_size // self.num_attention_heads
        numbers = 2 * self.num_hidden_layers * self.num_key_value_heads * size * tokens
        return numbers * (2.0 if is_half else 0.5)  # no type is smaller than four bits


def _file(model: str, name: str) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = Path(model).expanduser()
    with contextlib.suppress(HFValidationError):  # it is no hub id either
        if not folder.is_dir() and isinstance(found := try_to_load_from_cache(model, name), str):
            return Path(found)
    return folder / name
