"""The mixing console: settings in units, what they do to tracks, and how they are found."""
