"""Parts that HTML pages share."""
