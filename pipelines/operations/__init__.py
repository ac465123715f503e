"""What is done between nights, and what a person reads of them."""
