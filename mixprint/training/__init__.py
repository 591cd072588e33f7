"""One engine for every training, with all that trainings share."""
