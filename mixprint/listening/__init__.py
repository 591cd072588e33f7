"""Listening tests of transferred mixes: made from results, taken in a browser, analysed."""
