import os
from collections.abc import Iterator
from typing import Any

from torch import distributed


def _rendezvous(url: str, **kwargs: Any) -> Iterator[tuple[None, int, int]]:
    yield None, 0, int(os.environ["NUM_XLA_DEVICES"])


distributed.register_rendezvous_handler("xla", _rendezvous)
