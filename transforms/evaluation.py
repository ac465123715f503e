"""One evaluation: its users, window, corpus and topics; and what each kind of contestant scores in it."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from pinnerformer_model.baselines import MEAN_WINDOWS, mean_of_last, popularity, whiten
from pinnerformer_model.days import DAY_MS
from pinnerformer_model.evaluation import (
    Figures,
    Moments,
    best_of,
    embed_moments,
    find_hits,
    measure,
    measure_diversity,
    moments_of,
)
from pinnerformer_model.inference import encode_pins
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.pinnersage import (
    THRESHOLDS,
    Clusters,
    cluster_users,
    oracle_moments,
    served_hits,
    served_lists,
)
from pinnerformer_model.ranking import Scorer, choose_corpus, constant_scorer, round_robin, top_k, vector_scorer
from pinnerformer_model.timelines import Timelines
from pinnerformer_model.user_tower import UserTower
from pinnerformer_model.vectors import unit
from transforms.halves import are_choosers

POPULARITY_DAYS = (3, 7, 28, None)
KMEANS_TOPICS = 350  # as many as the paper has


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What every contestant is asked.

    Attributes:
        timelines: Of the evaluation users asked.
        past: What baselines learn from, up to the cut: of all users where vectors are made of all users' logs.
        vectors: float [P, D], as the model takes them.
        in_corpus: bool [P], the pins that compete.
        cut_ms: First moment of the window, at midnight.
        days: Length of the window.
        topic: int64 [P]; None: no interest entropy.
        k: Of recall@k.
        shared: What was learned and may be used again; see `once`.
    """

    timelines: Timelines
    past: Timelines
    vectors: np.ndarray
    in_corpus: np.ndarray
    cut_ms: int
    days: int
    topic: np.ndarray | None
    k: int = 10
    shared: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    def moments(self, frequency: str) -> Moments:
        """See `pinnerformer_model.evaluation.moments_of`."""
        if frequency not in self._moments:
            self._moments[frequency] = moments_of(self.timelines, self.cut_ms, self.days, frequency)
        return self._moments[frequency]

    @functools.cached_property
    def _moments(self) -> dict[str, Moments]:
        return {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was learned from `past` before the cut under a key, made if it is not there.

        Both halves share it, and so does every other cut or fold that was made of this one by `dataclasses.replace`.
        """
        return self._keep((key, self.cut_ms, id(self.past)), self.past, make)

    def _keep(self, key: Any, source: Any, make: Callable[[], Any]) -> Any:
        if key not in self.shared:
            self.shared[key] = (source, make())  # the source too: while it is held, its `id` is nobody else's
        return self.shared[key][1]

    @property
    def unit(self) -> np.ndarray:
        """float32 [P, D]: the vectors at unit length, as the baselines compare them."""
        return self._keep(("unit", id(self.vectors)), self.vectors, lambda: unit(self.vectors))

    @property
    def whitened(self) -> np.ndarray:
        """float32 [P, D]: the vectors as a fresh model begins with them."""
        return self._keep(("whitened", id(self.vectors)), self.vectors, lambda: whiten(self.vectors))

    def half(self, name: str) -> "Evaluation":
        """The same evaluation of one half of its users: choices are made on `choice`, figures are of `report`."""
        if name == "both":
            return self
        if name not in self._halves:
            first = are_choosers(self.timelines.user_ids)
            chosen = self.timelines.users(first if name == "choice" else ~first)
            self._halves[name] = dataclasses.replace(self, timelines=chosen)
        return self._halves[name]

    @functools.cached_property
    def _halves(self) -> dict[str, "Evaluation"]:
        return {}

    def score(
        self, scorer: Scorer, frequency: str = "once", queries: np.ndarray | None = None, diversity: bool = True
    ) -> Figures:
        """What a scorer of the moments' queries gets; diversity where there is one query a user.

        Args:
            queries: float [Q, d], the vectors that it scores by, if it does.
            diversity: Leave it out where a setting is chosen only.
        """
        moments = self.moments(frequency)
        figures = measure(find_hits(scorer, moments, self.in_corpus, self.k), moments, self.timelines.user_ids)
        if frequency != "once" or not diversity:
            return figures
        best = best_of(scorer, moments, self.in_corpus)
        return measure_diversity(figures, best, self.in_corpus, self.topic, queries)

    def model(
        self, user_tower: UserTower, pin_tower: PinTower, max_sequence_length: int, frequencies: tuple[str, ...]
    ) -> dict[str, Figures]:
        """What a model gets at each inference frequency.

        Args:
            user_tower, pin_tower: In eval mode.
            max_sequence_length: M.
        """
        pins = encode_pins(pin_tower, self.vectors)
        out = {}
        for frequency in frequencies:
            moments = self.moments(frequency)
            queries = embed_moments(user_tower, self.timelines, self.vectors, moments, max_sequence_length)
            out[frequency] = self.score(vector_scorer(queries, pins), frequency, queries)
        return out

    def popularity(self, days: int | None, diversity: bool = True) -> Figures:
        """What everybody gets who is shown the pins that were engaged with most, of the last `days`."""
        return self.score(constant_scorer(self.popular(days)), diversity=diversity)

    def popular(self, days: int | None) -> np.ndarray:
        """See `pinnerformer_model.baselines.popularity`: of `past`, before the cut."""
        key = ("popular", days)
        return self.once(key, lambda: popularity(self.past, self.cut_ms, len(self.vectors), days))

    def mean_of_last(
        self, window: int, frequency: str = "once", whitened: bool = False, diversity: bool = True
    ) -> Figures:
        """What the mean of a user's last vectors gets."""
        vectors = self.whitened if whitened else self.unit
        queries = mean_of_last(self.timelines, vectors, self.moments(frequency), window)
        return self.score(vector_scorer(queries, vectors), frequency, queries, diversity)

    def clusters(self, threshold: float) -> Clusters:
        """PinnerSage's clusters of the users asked."""
        if threshold not in self._clusters:
            self._clusters[threshold] = cluster_users(self.timelines, self.unit, self.moments("once"), threshold)
        return self._clusters[threshold]

    @functools.cached_property
    def _clusters(self) -> dict[float, Clusters]:
        return {}

    def pinnersage(self, clusters: Clusters, count: int, diversity: bool = True) -> Figures:
        """What PinnerSage gets whose oracle may pick among a user's `count` most important clusters.

        Diversity is that of the clusters' results taken in turns.
        """
        clusters = clusters.first(count)
        moments = oracle_moments(clusters, self.unit, self.moments("once"))
        scorer = vector_scorer(self.unit[clusters.pin_row], self.unit)
        figures = measure(find_hits(scorer, moments, self.in_corpus, self.k), moments, self.timelines.user_ids)
        lengths = np.diff(clusters.offsets)

        def best(k: int) -> np.ndarray:
            return round_robin(top_k(scorer, len(moments), self.in_corpus, k), lengths, k)

        return measure_diversity(figures, best, self.in_corpus, self.topic) if diversity else figures

    def pinnersage_served(self, clusters: Clusters, diversity: bool = True) -> Figures:
        """What PinnerSage gets as it is served: see `pinnerformer_model.pinnersage.served_lists`."""
        moments = self.moments("once")
        hits = served_hits(clusters, self.unit, moments, self.in_corpus, self.k)
        figures = measure(hits, moments, self.timelines.user_ids)

        def best(k: int) -> np.ndarray:
            return served_lists(clusters, self.unit, moments, self.in_corpus, k)

        return measure_diversity(figures, best, self.in_corpus, self.topic) if diversity else figures


def make_evaluation(
    evaluation: Timelines,
    training: Timelines,
    vectors: np.ndarray,
    cut_ms: int,
    days: int = 14,
    topic: np.ndarray | None = None,
    corpus: str = "uniform",
    corpus_size: int = 1_000_000,
    seed: int = 0,
    k: int = 10,
    past: Timelines | None = None,
) -> Evaluation:
    """Prepares an evaluation.

    Args:
        evaluation, training: Users, disjoint.
        vectors: float [P, D].
        topic: int64 [P]; None: no interest entropy.
        corpus: `uniform`: so many pins, all alike; `popular`: the distinct pins of so many draws in proportion to the
            positives of training users before the cut.
        corpus_size: At most so many pins compete.
        seed: Of the corpus.
        past: Of the users that baselines learn from, up to the cut; None: `training`.
    """
    # Of training users: a corpus drawn by what the evaluation users did would know the answers.
    weights = popularity(training, cut_ms, len(vectors)) if corpus == "popular" else None
    size = min(corpus_size, len(vectors))
    chosen = choose_corpus(len(vectors), size, np.random.default_rng([seed, 1]), weights)
    learned = training if past is None else past
    return Evaluation(evaluation, learned, vectors, chosen, cut_ms, days, topic, k)


@dataclasses.dataclass(frozen=True)
class Choices:
    """What was chosen for the baselines on the first half of the users, by recall@k.

    Attributes:
        popularity_days: Days that popularity is counted over.
        mean_window: Vectors in the mean.
        threshold: alpha of PinnerSage.
    """

    popularity_days: int | None
    mean_window: int
    threshold: float


def choose_baselines(evaluation: Evaluation, new: bool = False, pinnersage: bool = True) -> Choices:
    """Chooses each baseline's setting.

    Args:
        evaluation: Of the half that choices are made on.
        new: Choose by the recall of pins new to the user.
        pinnersage: Cluster as well; costs seconds a thousand users.
    """

    def value(figures: Figures) -> float:
        return (figures.recall_new if new else figures.recall)[0]

    threshold = THRESHOLDS[0]
    if pinnersage:
        threshold = max(THRESHOLDS, key=lambda a: value(evaluation.pinnersage(evaluation.clusters(a), 5)))
    return Choices(
        popularity_days=max(POPULARITY_DAYS, key=lambda days: value(evaluation.popularity(days))),
        mean_window=max(MEAN_WINDOWS, key=lambda window: value(evaluation.mean_of_last(window))),
        threshold=threshold,
    )


def cluster_topics(vectors: np.ndarray, topics: int = KMEANS_TOPICS, seed: int = 0) -> np.ndarray:
    """k-means clusters in place of topics, for vector sets that have none: int64 [P].

    Args:
        vectors: float32 [P, D], unit vectors.
        topics: Clusters; fewer where there are few pins.
    """
    from scipy.cluster.vq import kmeans2, vq

    random = np.random.default_rng(seed)
    # k-means takes pins times topics per round: a sample places the centres, and every pin then goes to the nearest.
    sample = vectors[np.sort(random.choice(len(vectors), min(len(vectors), 20_000), replace=False))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # equal vectors leave clusters empty: fewer topics, no harm
        centres, _ = kmeans2(sample, min(topics, len(sample)), iter=10, minit="points", rng=random)
    return vq(vectors, centres.astype(np.float32))[0].astype(np.int64)


def default_cut(end_ms: int, days: int) -> int:
    """The window's first moment if it is to end with the data.

    Args:
        end_ms: Midnight after the last day of the data.
    """
    return end_ms - days * DAY_MS
