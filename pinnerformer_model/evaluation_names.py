"""The words of an evaluation that flags take; without torch and scipy, so that flags are read without them."""

FREQUENCIES = ("once", "daily", "realtime")
FIGURE_OF = {"new": "recall_new", "all": "recall"}  # what a choice may be made by -> the field of `Figures`
CHOOSE_BY = tuple(FIGURE_OF)
BASELINES = (  # of `transforms.baselines`, in its order
    "popularity",
    "own_counts",
    "mean_of_last",
    "whitened_mean",
    "item_cosine",
    "ease",
    "als",
    "pinnersage_served",
    "pinnersage_5",
    "pinnersage_20",
)
