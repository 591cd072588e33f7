"""Results of a transfer as files, pictures, words and pages."""
