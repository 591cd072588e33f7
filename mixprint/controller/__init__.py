"""The controller: a network that hears tracks and a reference, and sets the console."""
