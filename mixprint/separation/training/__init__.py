"""What the trainings of all kinds of separators share."""
