"""Flags that stand in `pinnerformer.yaml` or in the environment, in place of the command line.

The parsers of the commands are the one source of what flags there are and what values they take. A layer here turns
into words of a command line, before those that were typed; below the console script nothing knows of files.
"""
