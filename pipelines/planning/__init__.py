"""What a job is asked for, and what is decided before it starts."""
