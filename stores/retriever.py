"""Retrieval: a user's vector from the key-value store against every shard of the index it belongs to."""

import dataclasses
import threading
import weakref

import numpy as np

from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.id_names import PINS, USERS, Id, Names, inner_ids, names_of, quoted
from stores.ids import bucket_of
from stores.indexes import Graph, IndexShard, load_shards, search_shards
from stores.kv import Current
from stores.layout import find_root_id
from stores.manifests import Manifest, read_manifest
from stores.neighbours import Neighbours
from stores.plain_columns import read_numbers_of
from stores.releases import read_move
from stores.string_ids import STRING
from stores.tables import read_dim, read_drawn


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """What was found for one user.

    Attributes:
        user_id: As asked: an integer, or a string where the root's user ids are strings.
        release: Whose index was searched.
        embedding_day: datetime64[D], the day the user's vector was made.
        pin_ids: int64 [<= k], or object [<= k] of strings where the root's pin ids are strings; best first.
        scores: float32 [<= k], inner products of unit vectors.
    """

    user_id: Id
    release: str
    embedding_day: np.datetime64
    pin_ids: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class KnownUsers:
    """Users of the release that a store serves.

    Attributes:
        users: How many have a vector.
        some: A few of them, as the logs have them.
    """

    release: str
    users: int
    some: list[Id]


@dataclasses.dataclass(frozen=True)
class Opened:
    """One release, open for search.

    Attributes:
        root: The one that it lies under.
        histories: Bucket -> its files.
    """

    root: Root
    current: Current
    manifest: Manifest
    histories: dict[int, list[FileEntry]]
    shards: list[IndexShard]
    ef: int
    pin_names: Names | None  # of string ids


class Retriever:
    """Finds the pins nearest to users. Safe to use from several threads.

    It follows what the key-value store serves, never CURRENT: a user's vector and the index it is searched in are of
    one release, whatever is being committed meanwhile. Where the store serves the root that took the place of this one
    (`ROOT/MOVED`, of `rebucket --switch`), it reads that one.

    Args:
        root: The job's root.
        kv_url: As `daily --kv`.
        namespace: As `daily --namespace`.
    """

    def __init__(self, root: str, kv_url: str, namespace: str = "pinnerformer"):
        self._root = Root(root)
        self._client = EmbeddingClient(kv_url, namespace)
        self._opened: Opened | None = None
        # A night after which a shard's graph is the old one needs no second copy of it in memory, nor time to read it.
        # By ef: a library's graph holds the width of its search, and of threads that search it at two widths one may
        # get the other's. Within a release nobody asks for less than its own.
        self._graphs: dict[int, weakref.WeakValueDictionary[str, Graph]] = {}
        self._lock = threading.Lock()

    def known_users(self, count: int) -> KnownUsers:
        """A few users who have a vector, for whoever knows none.

        Raises:
            StoreError: nothing was published, or store and root do not belong together.
        """
        current = self._client.current
        root, manifest = self._manifest_of(current)
        # Of the first files that hold anybody, and not of all: each is read up to the row that was drawn.
        entries = [entry for entry in manifest.tables["user_embeddings"] if entry.rows][:count]
        drawn = [rows["user_id"].to_numpy() for rows in read_drawn(root, entries, count, 0, ["user_id"])]
        ids = np.concatenate([np.empty(0, np.int64), *drawn])
        if USERS.kind(manifest) != STRING:
            return KnownUsers(current.release, current.users, ids.tolist())
        names = names_of(root, manifest, USERS, ids)
        return KnownUsers(current.release, current.users, [names[user] for user in ids.tolist() if user in names])

    def retrieve(self, user_id: Id, k: int, exclude_engaged: bool = False) -> Retrieved:
        """The k pins of the largest inner product with the user's vector.

        Args:
            user_id: As the logs have it.
            exclude_engaged: Leave out the pins of the user's kept history.

        Raises:
            TypeError: an id of another kind than the root's.
            StoreError: the user has no vector, nothing was published, or store and root do not belong together.
        """
        if k < 1:
            raise ValueError(f"k must be positive, got {k}")
        # Vector and `current` in one call: asked one after the other, a publish between the two would pair a vector
        # with the index of another model.
        known = self._opened.current if self._opened else self._client.current
        embeddings, days, found, current = self._client.get_many_of(known, [user_id])
        if not found[0]:
            shown = quoted(user_id) if isinstance(user_id, str) else str(user_id)
            raise StoreError(
                f"user {shown}: no vector in release {current.release}; the user has no usable action in the logs "
                f"read so far, is spelled otherwise there, or was erased (users known: {current.users}; some of them: "
                "`pinnerformer retrieve` without --user)"
            )
        opened = self._open(current)
        user = inner_ids([user_id], current.user_ids)
        engaged = self.engaged(opened, user) if exclude_engaged else np.empty(0, np.int64)
        best: Neighbours = search_shards(opened.shards, embeddings.astype(np.float32), k, opened.ef, engaged)
        kept = best.pin_ids[0] >= 0
        pins, scores = best.pin_ids[0][kept], best.scores[0][kept]
        return Retrieved(user_id, current.release, days[0], self.named(opened, pins), scores)

    # The steps of `retrieve`, for a server, which has several releases open at a time and asks for many users at once.

    @property
    def client(self) -> EmbeddingClient:
        """Of the store."""
        return self._client

    def named(self, opened: Opened, pins: np.ndarray) -> np.ndarray:
        """Pins, int64 [P], as the logs have them, in their order: int64 or object [P].

        Raises:
            StoreError: one has no name.
        """
        if opened.pin_names is None:
            return pins
        names = opened.pin_names.of(pins)
        if None in names:
            raise StoreError(
                f"{opened.root.url}: pin with hash {pins[names.index(None)]} is in the index of "
                f"{opened.manifest.release} and not in its pin_names; look with `pinnerformer verify`"
            )
        return np.array(names, object)

    def _open(self, current: Current) -> Opened:
        # Two threads that both see a new release would load its indexes twice, and have both in memory.
        with self._lock:
            opened = self._opened
            if opened is None or opened.current != current:
                opened = self.load(current)
                self._opened = opened
            return opened

    def _manifest_of(self, current: Current) -> tuple[Root, Manifest]:
        """What the store serves: its manifest, and the root that it lies under; of this one, or it is refused."""
        root = self._root_of(current)
        manifest = read_manifest(root, current.release)
        if manifest.model_digest != current.model_digest:
            raise StoreError(
                f"{root.url}: release {current.release} is of model {manifest.model_digest[:12]}, the vectors in "
                f"the store are of model {current.model_digest[:12]}; give the --root that was published into this "
                "--kv and --namespace"
            )
        self._check_root(root, current)
        return root, manifest

    def load(self, current: Current) -> Opened:
        """Opens a release for search. Graphs that another open one searches at the same width are shared with it.

        Raises:
            StoreError: a file is missing or damaged, or store and root do not belong together.
        """
        (root, manifest), dim = self._manifest_of(current), 0
        for entry in manifest.tables["pin_embeddings"][:1]:
            dim = read_dim(root, entry)
        ef = int(manifest.settings["index"]["ef_search"])
        graphs = self._graphs.setdefault(ef, weakref.WeakValueDictionary())
        shards = load_shards(root, manifest.tables["indexes"], dim, graphs)
        names = Names.load(root, manifest, PINS)
        return Opened(root, current, manifest, manifest.parts("histories"), shards, ef, names)

    def _root_of(self, current: Current) -> Root:
        """This root, or the one that took its place, as far as the store serves that one."""
        root, content = self._root, self._client.content_of(current)
        seen = {root.url}
        while content and find_root_id(root) != content.root:
            move = read_move(root)
            if move is None or move.url in seen:
                return self._root
            root = Root(move.url)
            seen.add(root.url)
        return root

    def _check_root(self, root: Root, current: Current) -> None:
        """Refuses a store that another root was published to; nothing is known of one that an older version wrote."""
        own, content = find_root_id(root), self._client.content_of(current)
        if own and content and content.release == current.release and content.root != own:
            raise StoreError(
                f"{root.url}: the store serves {current.release} of another root (id {content.root[:8]}, this "
                f"one is {own[:8]}); give the --root that was published into this --kv and --namespace"
            )

    def engaged(self, opened: Opened, user: np.ndarray) -> np.ndarray:
        """Pins of the kept history of a user, int64 [1]: int64, sorted.

        `erase` and `gc` write a manifest again and remove files that it named: then it is read again, once.

        Raises:
            StoreError: a file is missing or damaged.
        """
        try:
            return self._read_engaged(opened, user)
        except StoreError:
            manifest = read_manifest(opened.root, opened.manifest.release)
            if manifest.revision == opened.manifest.revision:
                raise
            newer = dataclasses.replace(opened, manifest=manifest, histories=manifest.parts("histories"))
            with self._lock:
                if self._opened is opened:
                    self._opened = newer
            return self._read_engaged(newer, user)

    def _read_engaged(self, opened: Opened, user: np.ndarray) -> np.ndarray:
        """From the files of the user's bucket, int64, sorted, each once."""
        bucket = int(bucket_of(user, opened.manifest.settings["layout"]["user_buckets"])[0])
        entries = opened.histories.get(bucket, [])
        found = [read_numbers_of(opened.root, entry, "user_id", int(user[0]), "pin_id") for entry in entries]
        return np.unique(np.concatenate([np.empty(0, np.int64), *found]))

    def close(self) -> None:
        """Gives the connection to the store back."""
        self._client.close()

    def __enter__(self) -> "Retriever":
        return self

    def __exit__(self, *_) -> None:
        self.close()
