"""A stand-in for torch_xla: its tensors lie on the CPU, and what is asked of it is noted."""

calls: list[str] = []


def sync() -> None:
    calls.append("sync")


def manual_seed(seed: int) -> None:
    calls.append("seed")
