"""The explorer of `pinnerformer serve`: what a release thinks that a user likes, as pages."""
