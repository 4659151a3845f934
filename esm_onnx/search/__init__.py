"""Searching a space with a predictor: `evolution.search` is the function, `estimates` where its numbers come from."""
