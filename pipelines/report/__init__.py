"""The report of a release: one HTML page, complete in itself."""
