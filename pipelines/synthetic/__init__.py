"""A synthetic world of logs and vectors, and the oracle that knows how it was made."""
