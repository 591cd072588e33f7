"""The console as a page: drawn, played and changed in a browser."""
