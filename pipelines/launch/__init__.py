"""How a job is handed to Beam: options, runners, progress, workers."""
