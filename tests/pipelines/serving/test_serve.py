"""`pinnerformer serve` over real HTTP, beside what the library and a plain computation answer."""

import base64

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.serving.app import Settings
from pipelines.serving.asked import Limits
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.releases import read_current
from stores.retriever import Retriever
from stores.tables import read_files
from tests.pipelines.serving.running import serving


@pytest.fixture(scope="module")
def catalogue(made, tmp_path_factory) -> str:
    """Every pin of the root: of three topics, some in stock."""
    manifest = read_current(Root(made.root))
    tables = [read_files(Root(made.root), [entry], ["pin_id"]) for entry in manifest.tables["pin_embeddings"]]
    ids = pa.concat_tables(tables)["pin_id"].to_numpy()
    rows = {"pin_id": ids, "topic": [f"t{one % 3}" for one in ids], "in_stock": ids % 2 == 0, "price": ids % 10 / 2}
    path = str(tmp_path_factory.mktemp("catalogue") / "items.parquet")
    pq.write_table(pa.table(rows), path)
    return path


@pytest.fixture(scope="module")
def server(made, catalogue):
    with serving(
        made.root, made.kv, catalogue, Settings(limits=Limits(k=50, ids=20, answers=200, body=4096))
    ) as client:
        yield client


@pytest.fixture(scope="module")
def users(made) -> list[int]:
    with Retriever(made.root, made.kv) as retriever:
        return retriever.known_users(5).some


def test_lookups_are_what_the_client_library_reads(made, server, users):
    asked = [users[0], 10**12, users[1], users[0]]
    with EmbeddingClient(made.kv) as client:
        embeddings, days, _ = client.get_many(asked)
    found = server.post("/v1/embeddings:lookup", {"ids": asked})
    assert found.status == 200 and found.headers["PinnerFormer-Release"] == found.body["release"] == "2026-11-04"
    rows = found.body["embeddings"]
    assert rows[1] is None and found.body["dim"] == embeddings.shape[1] == 32
    for at in (0, 2, 3):
        assert rows[at]["user_id"] == asked[at] and rows[at]["embedding_day"] == str(days[at])
        assert np.array_equal(np.array(rows[at]["embedding"], np.float16), embeddings[at])
    found = server.post("/v1/embeddings:lookup", {"ids": asked, "encoding": "base64"})
    row = np.frombuffer(base64.b64decode(found.body["embeddings"][2]["embedding"]), "<f2")
    assert np.array_equal(row, embeddings[2])
    assert server.post("/v1/embeddings:lookup", {"ids": []}).body["embeddings"] == []


def test_pins_of_a_user_are_what_retrieve_finds(made, server, users):
    with Retriever(made.root, made.kv) as retriever:
        for exclude in (False, True):
            want = retriever.retrieve(users[0], 7, exclude)
            path = f"/v1/users/{users[0]}/pins?k=7&exclude_engaged={str(exclude).lower()}"
            found = server.get(path)
            assert found.status == 200, found.body
            assert [row["pin_id"] for row in found.body["pins"]] == want.pin_ids.tolist()
            assert found.body["release"] == found.headers["PinnerFormer-Release"] == want.release
            assert found.body["embedding_day"] == str(want.embedding_day)
        batch = server.post("/v1/users:pins", {"ids": [*users, 10**12], "k": 7, "exclude_engaged": True}).body["users"]
        assert batch[-1] is None
        for user, row in zip(users, batch, strict=False):
            assert [pin["pin_id"] for pin in row["pins"]] == retriever.retrieve(user, 7, True).pin_ids.tolist()


def test_neighbours_of_a_pin_are_the_largest_inner_products(made, server):
    root = Root(made.root)
    tables = [read_files(root, [entry]) for entry in read_current(root).tables["pin_embeddings"]]
    rows = pa.concat_tables(tables)
    ids = rows["pin_id"].to_numpy()
    vectors = (
        np.frombuffer(b"".join(rows["embedding"].to_pylist()), np.float16).reshape(len(ids), -1).astype(np.float32)
    )
    scores = vectors @ vectors[5]
    scores[5] = -1
    found = server.get(f"/v1/pins/{ids[5]}/neighbours?k=5").body
    assert [row["pin_id"] for row in found["pins"]] == ids[np.argsort(-scores)][:5].tolist()
    assert found["pin_id"] == ids[5]


def test_filters_let_through_what_the_catalogue_says(server, users):
    every = server.get(f"/v1/users/{users[0]}/pins?k=50").body["pins"]
    found = server.get(f"/v1/users/{users[0]}/pins?k=50&where=topic=t1,in_stock=true").body["pins"]
    assert found and all(row["pin_id"] % 3 == 1 and row["pin_id"] % 2 == 0 for row in found)
    wanted = [row for row in every if row["pin_id"] % 3 == 1 and row["pin_id"] % 2 == 0]
    assert [row["pin_id"] for row in found[: len(wanted)]] == [row["pin_id"] for row in wanted]
    none = server.get(f"/v1/users/{users[0]}/pins?where=topic=nothing").body
    assert none["pins"] == [] and none["release"] == "2026-11-04"


def test_releases_health_metrics_and_documents(server):
    found = server.get("/v1/releases?limit=2").body
    assert found["served"] == found["newest"] == "2026-11-04"
    assert [row["release"] for row in found["releases"]] == ["2026-11-04", "2026-11-03"]
    assert server.get("/healthz").body == {"status": "ok"}
    assert server.get("/readyz").body == {"status": "ready", "release": "2026-11-04"}
    text = server.get("/metrics").body
    assert 'pinnerformer_serve_release{model="' in text and 'release="2026-11-04"} 1.0' in text
    assert 'pinnerformer_serve_requests_total{endpoint="readyz",status="200"} 1.0' in text
    assert server.get("/openapi.json").body["openapi"] == "3.1.0"
    page = server.get("/docs").body
    assert "POST /v1/embeddings:lookup" in page and "http" not in page and "<script" not in page


BAD = {
    "k of none": ("/v1/users/{user}/pins?k=0", 422, "k must be from 1 to 50, got 0"),
    "k of a million": ("/v1/users/{user}/pins?k=1000000", 422, "k must be from 1 to 50"),
    "k of no number": ("/v1/users/{user}/pins?k=ten", 422, "k must be a whole number from 1 to 50, got 'ten'"),
    "unknown user": ("/v1/users/123456/pins", 404, "user 123456: no vector in release 2026-11-04"),
    "other kind": ("/v1/users/u-17/pins", 422, "'u-17' is not a user id; the user ids here are whole numbers"),
    "no id": ("/v1/users//pins", 422, "'' is not a user id"),
    "unknown pin": ("/v1/pins/123456789/neighbours", 404, "pin 123456789: not in release 2026-11-04"),
    "unknown column": ("/v1/users/{user}/pins?where=colour=red", 422, "no column 'colour'; there are in_stock, pin_id"),
    "no condition": ("/v1/users/{user}/pins?where=red", 422, "where: 'red' is no condition"),
    "misspelled": ("/v1/users/{user}/pins?exlude_engaged=true", 422, "did you mean exclude_engaged?"),
    "twice": ("/v1/users/{user}/pins?k=1&k=2", 422, "a parameter is given twice"),
    "no path": ("/v2/users", 404, "no such path; /docs says"),
    "method": ("/v1/users:pins", 405, "Method Not Allowed"),
}


@pytest.mark.parametrize(("path", "status", "detail"), BAD.values(), ids=list(BAD))
def test_what_cannot_be_answered_says_why(path, status, detail, server, users):
    found = server.get(path.format(user=users[0]))
    assert found.status == status
    assert detail in found.detail


BAD_BODIES = {
    "no JSON": (b"{", 400, "the body is not JSON"),
    "a list": (b"[]", 422, "the body must be a JSON object"),
    "no ids": ({}, 422, "ids must be a list of ids"),
    "strings": ({"ids": ["u-17"]}, 422, "user ids must be integers, got 'u-17'"),
    "fractions": ({"ids": [1.5]}, 422, "ids must be whole numbers or strings, got 1.5"),
    "too large": ({"ids": [1 << 63]}, 422, "ids must fit int64"),
    "too many": ({"ids": list(range(21))}, 422, "at most 20 are answered at once"),
    "unknown key": ({"ids": [], "idz": 1}, 422, "did you mean ids?"),
    "too long": (b" " * 5000, 413, "a body may have 4,096 bytes"),
}


@pytest.mark.parametrize("path", ["/v1/embeddings:lookup", "/v1/users:pins"])
@pytest.mark.parametrize(("body", "status", "detail"), BAD_BODIES.values(), ids=list(BAD_BODIES))
def test_bodies_that_cannot_be_answered_say_why(path, body, status, detail, made, server):
    found = server.post(path, body)
    assert (found.status, detail in found.detail) == (status, True), found.body


def test_a_batch_is_no_way_around_the_limits(server, users):
    found = server.post("/v1/users:pins", {"ids": users, "k": 50})
    assert found.status == 422 and "at most 200 pins are answered at once" in found.detail
