"""What the engines for GPUs have in common: a model folder or hub name, and sizes that come to a number of GPUs."""

import math
from pathlib import Path
from typing import Any, ClassVar

from tuner.engines.base import Engine, ServerSpec
from tuner.errors import SpecError


class GPUEngine(Engine):
    """An engine that spreads one model over GPUs."""

    #: parameters whose product is the number of GPUs, the first one set where only the number is given
    sizes: ClassVar[tuple[str, ...]]
    #: the parameter that bounds prompt and output together
    context_parameter: ClassVar[str]

    def check(self, spec: ServerSpec) -> None:
        """Refuse what would fail only after a minute of imports."""
        super().check(spec)
        if not spec.model:
            raise SpecError(f"engine {self.name} needs model, a folder or a name on Hugging Face")
        if spec.model.startswith(("/", ".", "~")) and not Path(spec.model).expanduser().exists():
            raise SpecError(f"the model {spec.model} does not exist")
        given = len(spec.gpus) if isinstance(spec.gpus, list) else spec.gpus
        if given and self.gpus(spec) not in (1, given):
            raise SpecError(f"{self.name} is given {given} GPUs, and its parallel sizes come to {self.gpus(spec)}")

    def gpus(self, spec: ServerSpec) -> int:
        """One for each part of each copy of the model."""
        return math.prod(int(str(spec.parameters.get(name) or 1)) for name in self.sizes)

    def context(self, spec: ServerSpec) -> int | None:
        """The parameter that sets it, where it is given."""
        value = spec.parameters.get(self.context_parameter)
        return value if isinstance(value, int) else None

    def asked(self, spec: ServerSpec, gpus: int) -> dict[str, Any]:
        """The parameters; where several GPUs are given and nothing says how they share, each layer is split."""
        if gpus > 1 and not any(name in spec.parameters for name in self.sizes):
            return {**spec.parameters, self.sizes[0]: gpus}
        return dict(spec.parameters)
