"""The pages as the server sends them: bad input, markup in names, hosts of pictures, a store that is down."""

import html
import shutil

import pytest

from stores.files import Root
from tests.pipelines.explorer.conftest import HOST, HOSTILE
from tests.pipelines.serving.running import serving


def text_of(found) -> str:
    return html.unescape(found.body)


def test_names_are_escaped_and_no_address_is_trusted(explored):
    client, pin = explored.client, explored.hostile
    for path in (f"/user?id={explored.users[0]}", f"/pin?id={pin}"):
        found = client.get(path)
        assert found.status == 200
        assert HOSTILE in text_of(found)
        assert HOSTILE not in found.body and "<script>document" not in found.body
        assert 'src="https://evil' not in found.body and 'href="javascript' not in found.body
        policy = found.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'; ")
        assert f"img-src 'self' https://{HOST};" in policy
        assert found.headers["cache-control"] == "no-store" and found.headers["referrer-policy"] == "no-referrer"
    assert f'src="https://{HOST}/' in client.get(f"/user?id={explored.users[0]}").body


BAD = {
    "unknown user": ("/user?id=123456", 404, "user 123456: no vector in release 2026-11-04 of"),
    "no id": ("/user", 422, "no user was named; the user ids here are whole numbers"),
    "other kind": ("/user?id=u-17", 422, "'u-17' is not a user id"),
    "markup": ("/user?id=<script>x</script>", 422, "'<script>x</script>' is not a user id"),
    "too large": ("/user?id=99999999999999999999", 422, "is not a user id"),
    "unknown pin": ("/pin?id=123456", 404, "pin 123456: not in release 2026-11-04 of"),
    "no release": ("/user?id=1&view=0@2020-01-01", 404, "is '2020-01-01' a release of this root?; choose another"),
    "no root": ("/user?id=1&view=7@2026-11-04", 422, "'7@2026-11-04' is no view"),
    "a path": ("/user?id=1&view=0@../../etc/passwd", 404, "choose another release"),
    "k of none": ("/user?id=1&k=0", 422, "k must be from 1 to 100, got 0"),
    "k of a million": ("/user?id=1&k=1000000", 422, "k must be from 1 to 100"),
    "misspelled": ("/user?id=1&besides=0@2026-11-03", 422, "did you mean beside?"),
}


@pytest.mark.parametrize(("path", "status", "detail"), BAD.values(), ids=list(BAD))
def test_what_cannot_be_shown_is_a_page_that_says_why(path, status, detail, explored):
    found = explored.client.get(path.replace("<", "%3C").replace(">", "%3E"))
    assert found.status == status and detail in text_of(found)
    assert found.headers["content-type"].startswith("text/html") and "<script>x" not in found.body
    assert "Users worth a look" in found.body


def test_two_releases_and_two_roots_stand_side_by_side(explored):
    user = explored.users[0]
    page = text_of(explored.client.get(f"/user?id={user}&beside=1@2026-11-03"))
    assert "Retrieved by 2026-11-04 of " in page and "Retrieved by 2026-11-03 of " in page
    assert "of these 20 are in the other list" in page
    page = text_of(explored.client.get(f"/user?id={user}&view=1@2026-11-02&beside=0@2026-11-04&k=5&new=true"))
    assert "release 2026-11-02 of " in page and "of these 5 are in the other list" in page
    assert "engaged before" not in page
    page = text_of(explored.client.get(f"/pin?id={explored.hostile}&beside=1@2026-11-03"))
    assert "Neighbours in 2026-11-03 of " in page


def test_a_user_at_random_has_a_vector(explored):
    found = explored.client.get("/random?k=5")
    assert found.status == 303 and found.headers["location"].startswith("/user?id=")
    assert found.headers["location"].endswith("&k=5")
    assert explored.client.get(found.headers["location"]).status == 200


def test_what_is_served_is_shown_even_where_the_store_has_nothing_yet(made, tmp_path):
    with serving(made.root, f"lmdb://{tmp_path}/empty") as client:
        for path in ("/", "/user?id=1"):
            found = client.get(path)
            assert found.status == 503 and "nothing published yet" in found.body
            assert "ask again" in found.body


def test_users_who_were_erased_are_gone_at_once(kept, tmp_path):
    (tmp_path / "erase.txt").write_text("-5\n")
    with serving(kept.root, kept.kv) as client:
        assert client.get("/user?id=-5").status == 200 and ">-5</a>" in client.get("/").body
        assert kept.of_root("erase", f"--users={tmp_path}/erase.txt") == 0
        assert client.get("/user?id=-5").status == 404
        for release in ("2026-11-01", "2026-11-03"):
            assert client.get(f"/user?id=-5&view=0@{release}").status == 404
        assert ">-5</a>" not in client.get("/").body


def test_a_root_without_its_oldest_releases_is_shown(made, tmp_path):
    copy = str(tmp_path / "root")
    shutil.copytree(made.root, copy)
    shutil.rmtree(f"{copy}/releases/2026-11-03")
    with serving(copy, made.kv) as client:
        page = client.get("/user?id=-5")
        assert page.status == 200 and "No release before knows this user" in page.body
        assert Root(copy).exists("releases/2026-11-04/manifest.json")
