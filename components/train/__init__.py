"""The step train: a training of any task (`components.train.job`), on one machine or several."""
