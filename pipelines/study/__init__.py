"""The study: which of the paper's findings hold on a data set."""
