"""Common parts of the trainings of all kinds of separators."""
