"""A diffusion separator: generates a song without its vocals, and subtracts it from the mixture."""
