"""An erasure against a dict without the keys."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.erasure import erase_from_files, new_erasure_report
from stores.files import Root
from stores.manifests import Manifest, read_manifest
from stores.schemas import from_binary_column
from stores.tables import read_files
from tests.stores.snapshots import IDS, SNAPSHOT, release


def of_release(root: Root, manifest: Manifest) -> dict[int, float]:
    found: dict[int, float] = {}
    for entry in manifest.tables["user_embeddings"]:
        rows = read_files(root, [entry])
        numbers = from_binary_column(rows["embedding"])[:, 0].tolist()
        found |= dict(zip(rows["user_id"].to_pylist(), numbers, strict=True))
    return found


@given(st.lists(SNAPSHOT, min_size=1, max_size=3), st.sets(IDS, min_size=1, max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_erasure_is_a_dict_without_keys(tmp_path_factory, snapshots, gone):
    root = Root(str(tmp_path_factory.mktemp("erased")))
    for number, snapshot in enumerate(snapshots):
        release(root, f"r{number}", snapshot)
    users = np.array(sorted(gone), np.int64)
    for _ in range(2):
        erase_from_files(root, users, new_erasure_report(users))
        for number, snapshot in enumerate(snapshots):
            left = {user: value for user, value in snapshot.items() if user not in gone}
            assert of_release(root, read_manifest(root, f"r{number}")) == left
