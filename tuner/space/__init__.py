"""What a search may try: the parameters, their ranges and conditions, the constraints between them, and TuneSpec."""

from tuner.space.search_space import SearchSpace
from tuner.space.tune_spec import TuneSpec

__all__ = ["SearchSpace", "TuneSpec"]
