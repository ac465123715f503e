"""The same night without the product: with Daft, and as a loop without any framework."""
