"""Samplers that learn nothing: one configuration after the other, and by chance."""

from collections.abc import Iterable, Sequence

from tuner.search.sampler_base import Sampler, Seen
from tuner.search.search_space import Point


class Grid(Sampler):
    """Every configuration in turn; wide ranges by a few values each."""

    def _proposals(self, seen: Sequence[Seen]) -> Iterable[Point]:
        return self.space.grid()

    def _any(self, seen: Sequence[Seen]) -> Iterable[Point]:
        return ()


class Random(Sampler):
    """Any configuration, all as likely."""

    def _proposals(self, seen: Sequence[Seen]) -> Iterable[Point]:
        return ()
