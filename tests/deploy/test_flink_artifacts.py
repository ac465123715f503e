"""What the fetching of Flink's parts does when something is not as it should be; `make test-flink` fetches them."""

import pytest

from engines.flink.artifacts import BEAM_VERSION, JOB_SERVER_VARIABLE, job_server_jar
from stores.errors import InputError

NAME = f"beam-runners-flink-1.20-job-server-{BEAM_VERSION}"


@pytest.fixture(autouse=True)
def none_of_our_own(monkeypatch):
    monkeypatch.delenv(JOB_SERVER_VARIABLE, raising=False)


def test_a_kept_job_server_that_changed_is_not_replaced_by_an_older_one(tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / f"{NAME}.jar").write_bytes(b"changed")
    (tmp_path / NAME / f"{NAME}.jar.sha256").write_text("0" * 64)
    with pytest.raises(InputError, match=f"{NAME}.jar: changed since it was fetched; delete"):
        job_server_jar("1.20", cache=str(tmp_path))


def test_without_maven_the_ready_job_server_is_what_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no mvn to fetch org.apache.beam:beam-runners-flink-1.20-job-server:"):
        job_server_jar("1.20", cache=str(tmp_path))
