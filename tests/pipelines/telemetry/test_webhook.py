"""`--notify`: what is posted, and that nobody who is told can hold up, or learn more than is theirs."""

import pytest

from pipelines.telemetry.webhook import body_of, post, resolve, shown
from stores.errors import UsageError
from tests.pipelines.telemetry.listening import listening

SECRET = "https://hooks.example.com:8443/services/T00/B00/hunter2?token=hunter3"


def test_an_object_is_posted():
    body = body_of("failed", command="daily", root="/r", exit_code=1, error="why", known={"run": "r1"})
    with listening() as server:
        assert post(f"{server.url}/hook", body) is None
    assert server.heard == [("/hook", body)]
    assert body["text"] == "pinnerformer daily on /r: failed, exit code 1: why" and body["run"] == "r1"


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_an_answer_that_is_none_is_said_and_a_redirect_is_not_followed(answer):
    with listening() as server:
        server.answer = answer
        assert post(f"{server.url}/hook", {}) == f"answered {answer}"
    assert [path for path, _ in server.heard] == ["/hook"]


def test_a_server_that_does_not_answer_is_left():
    with listening() as server:
        server.slow_s = 300.0  # longer than a test may last
        assert post(f"{server.url}/hook", {}, timeout_s=0.2) in ("no answer in time", "TimeoutError: timed out")


def test_nobody_there_is_said_without_the_url():
    with listening() as server:
        url = server.url
    assert "refused" in (post(f"{url}/hunter2", {}) or "") and "hunter2" not in (post(f"{url}/hunter2", {}) or "")


def test_a_url_is_shown_without_its_secret():
    assert shown(SECRET) == "https://hooks.example.com:8443/***" and shown("env:HOOK") == "env:HOOK"
    assert shown("https://user:hunter2@h/x") == "https://h/***"


def test_a_url_from_the_environment():
    assert resolve("env:HOOK", {"HOOK": SECRET}) == SECRET
    for url, environ in (("env:HOOK", {}), ("env:HOOK", {"HOOK": "ftp://hunter2"}), ("hooks.example.com/hunter2", {})):
        with pytest.raises(UsageError, match="--notify") as raised:
            resolve(url, environ)
        assert "hunter2" not in str(raised.value)
