"""Retrieval: a user's vector from the key-value store against every shard of the index it belongs to."""

import dataclasses
import threading

import numpy as np

from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError
from stores.files import Root
from stores.ids import bucket_of
from stores.indexes import IndexShard, load_shards, search_shards
from stores.kv import Current
from stores.layout import find_root_id
from stores.manifests import Manifest, read_manifest
from stores.neighbours import Neighbours
from stores.tables import read_dim, read_rows_of


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """What was found for one user.

    Attributes:
        user_id: As asked.
        release: Whose index was searched.
        embedding_day: datetime64[D], the day the user's vector was made.
        pin_ids: int64 [<= k], best first.
        scores: float32 [<= k], inner products of unit vectors.
    """

    user_id: int
    release: str
    embedding_day: np.datetime64
    pin_ids: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Opened:
    """One release, open for search."""

    current: Current
    manifest: Manifest
    shards: list[IndexShard]
    ef: int


class Retriever:
    """Finds the pins nearest to users. Safe to use from several threads.

    It follows what the key-value store serves, never CURRENT: a user's vector and the index it is searched in are of
    one release, whatever is being committed meanwhile.

    Args:
        root: The job's root.
        kv_url: As `daily --kv`.
        namespace: As `daily --namespace`.
    """

    def __init__(self, root: str, kv_url: str, namespace: str = "pinnerformer"):
        self._root = Root(root)
        self._client = EmbeddingClient(kv_url, namespace)
        self._opened: _Opened | None = None
        self._lock = threading.Lock()

    def retrieve(self, user_id: int, k: int, exclude_engaged: bool = False) -> Retrieved:
        """The k pins of the largest inner product with the user's vector.

        Args:
            exclude_engaged: Leave out the pins of the user's kept history.

        Raises:
            StoreError: the user has no vector, nothing was published, or store and root do not belong together.
        """
        if k < 1:
            raise ValueError(f"k must be positive, got {k}")
        # Vector and `current` in one call: asked one after the other, a publish between the two would pair a vector
        # with the index of another model.
        embeddings, days, found, current = self._client.get_many_of(self._client.current, [user_id])
        if not found[0]:
            raise StoreError(
                f"user {user_id}: no vector in release {current.release}; the user has no usable action in the logs "
                f"read so far (users known: {current.users})"
            )
        opened = self._open(current)
        engaged = self._engaged(opened, user_id) if exclude_engaged else np.empty(0, np.int64)
        # As many more as may be taken away again: the index cannot leave pins out while it searches.
        wanted = k + len(engaged)
        best: Neighbours = search_shards(opened.shards, embeddings.astype(np.float32), wanted, max(opened.ef, wanted))
        kept = (best.pin_ids[0] >= 0) & ~np.isin(best.pin_ids[0], engaged)
        pins, scores = best.pin_ids[0][kept][:k], best.scores[0][kept][:k]
        return Retrieved(user_id, current.release, days[0], pins, scores)

    def _open(self, current: Current) -> _Opened:
        # Two threads that both see a new release would load its indexes twice, and have both in memory.
        with self._lock:
            opened = self._opened
            if opened is None or opened.current != current:
                opened = self._load(current)
                self._opened = opened
            return opened

    def _load(self, current: Current) -> _Opened:
        manifest = read_manifest(self._root, current.release)
        if manifest.model_digest != current.model_digest:
            raise StoreError(
                f"{self._root.url}: release {current.release} is of model {manifest.model_digest[:12]}, the vectors in "
                f"the store are of model {current.model_digest[:12]}; give the --root that was published into this "
                "--kv and --namespace"
            )
        self._check_root(current)
        dim = 0
        for entry in manifest.tables["pin_embeddings"][:1]:
            dim = read_dim(self._root, entry)
        shards = load_shards(self._root, manifest.tables["indexes"], dim)
        return _Opened(current, manifest, shards, int(manifest.settings["index"]["ef_search"]))

    def _check_root(self, current: Current) -> None:
        """Refuses a store that another root was published to; nothing is known of one that an older version wrote."""
        own, content = find_root_id(self._root), self._client.content_of(current)
        if own and content and content.release == current.release and content.root != own:
            raise StoreError(
                f"{self._root.url}: the store serves {current.release} of another root (id {content.root[:8]}, this "
                f"one is {own[:8]}); give the --root that was published into this --kv and --namespace"
            )

    def _engaged(self, opened: _Opened, user_id: int) -> np.ndarray:
        """Pins of the user's kept history.

        `erase` and `gc` write a manifest again and remove files that it named: then it is read again, once.
        """
        try:
            return self._read_engaged(opened.manifest, user_id)
        except StoreError:
            manifest = read_manifest(self._root, opened.manifest.release)
            if manifest.revision == opened.manifest.revision:
                raise
            with self._lock:
                if self._opened is opened:
                    self._opened = dataclasses.replace(opened, manifest=manifest)
            return self._read_engaged(manifest, user_id)

    def _read_engaged(self, manifest: Manifest, user_id: int) -> np.ndarray:
        """Reads two columns of the user's bucket, a fraction 1 / user_buckets of the histories, up to the user."""
        user = np.array([user_id])
        bucket = int(bucket_of(user, manifest.settings["layout"]["user_buckets"])[0])
        entries = manifest.parts("histories").get(bucket, [])
        return np.unique(read_rows_of(self._root, entries, "user_id", user, ["pin_id"])["pin_id"].to_numpy())

    def close(self) -> None:
        """Gives the connection to the store back."""
        self._client.close()

    def __enter__(self) -> "Retriever":
        return self

    def __exit__(self, *_) -> None:
        self.close()
