"""The errors that mixprint raises on bad input; messages name the input, expected and found."""


class MixprintError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(MixprintError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class AudioError(MixprintError):
    """An audio file cannot be read, or holds nothing that can be used."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason apart from the detail, so that rejects can be counted by reason.

        Args:
            reason: short slug, for example ``unreadable`` or ``silent``.
            detail: a sentence that names the file, what was expected and what was found.
        """
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Let it pass between processes with both of its texts."""
        return type(self), (self.reason, self.detail)


class DataError(MixprintError):
    """A table, shard, manifest or data set is missing, broken or does not fit the code."""


class OccupiedError(DataError):
    """Others are at work there in another way: nothing was begun."""


class CheckpointError(MixprintError):
    """A checkpoint is unreadable, unsafe, or does not fit the model or the feature schema."""


class TrainingError(MixprintError):
    """Training cannot go on, for example because a loss is not finite."""


def error_text(error: Exception) -> str:
    """Return a foreign error's message without the path, which the caller names in its own way."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip()
