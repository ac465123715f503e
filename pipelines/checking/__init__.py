"""What `pinnerformer check-inputs` looks at: logs, vectors, model, root and the night itself, a part each.

Nothing here has a rule of its own: what is refused or dropped is asked of the functions that the night asks.
"""
