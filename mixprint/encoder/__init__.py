"""The mixing-style encoder: architecture, contrastive training, checkpoints.

`settings` holds every parameter and loads without torch; `checkpoint.load_checkpoint` gives a
trained encoder, `training.train` makes one.
"""
