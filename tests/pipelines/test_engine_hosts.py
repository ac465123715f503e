"""What the launcher refuses before an engine of several hosts is handed anything, and what it tells worker pools."""

import json

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

from pipelines.launch.engine_hosts import SOFTWARE, explain_artifacts, find_job_server, host_check, say_software
from pipelines.launch.run_pipeline import explain_worker_failure
from pipelines.launch.worker_pool import WorkerPool
from stores.errors import StoreError, UsageError
from stores.files import Root
from tests.redis_server import free_port
from transforms.host_check import software
from transforms.publish import PublishTarget

ELSEWHERE = ["--runner=PortableRunner", "--job_endpoint=192.0.2.1:8099"]
HERE = ["--runner=PortableRunner", "--job_endpoint=127.0.0.1:8099"]


def target(url: str) -> PublishTarget:
    return PublishTarget(url, "a")


def test_only_engines_have_their_hosts_checked_and_only_those_elsewhere_their_names(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.3:9000")
    root, kv = Root("s3://bucket/root"), target("redis+cluster://:secret@192.0.2.2:6379")
    assert host_check(PipelineOptions([]), root, None, kv) is None
    here, elsewhere = (host_check(PipelineOptions(flags), root, None, kv) for flags in (HERE, ELSEWHERE))
    assert here.names == () and elsewhere.names == ("192.0.2.3", "192.0.2.2")
    monkeypatch.setenv("STORE", kv.url)
    assert host_check(PipelineOptions(ELSEWHERE), root, None, target("env:STORE")).names == elsewhere.names
    assert here.software == elsewhere.software == software()


@pytest.mark.parametrize("url", ["redis://localhost:6379/0", "redis+cluster://u:secret@127.0.1.1:6379"])
def test_a_store_that_is_this_host_is_no_store_for_workers_elsewhere(url):
    assert host_check(PipelineOptions(HERE), Root("/root"), None, target(url))
    with pytest.raises(
        UsageError, match=r"--kv redis.* this host itself, and workers .* would ask themselves"
    ) as error:
        host_check(PipelineOptions(ELSEWHERE), Root("/root"), None, target(url))
    assert "secret" not in str(error.value)


def test_a_store_in_a_variable_is_looked_at_as_one_on_the_command_line(monkeypatch):
    for url, said in (
        ("lmdb:///srv/kv", "LMDB is a file of one host"),
        ("redis://localhost:6379/0", "this host itself"),
    ):
        monkeypatch.setenv("STORE", url)
        with pytest.raises(UsageError, match=said):
            host_check(PipelineOptions(ELSEWHERE), Root("/root"), None, target("env:STORE"))


def test_a_store_that_is_a_file_of_one_host_is_refused_where_the_job_may_end_on_another():
    assert host_check(PipelineOptions(HERE), Root("/root"), None, target("lmdb:///srv/kv"))
    with pytest.raises(UsageError, match=r"--kv lmdb:///srv/kv: LMDB is a file of one host.*--publish none"):
        host_check(PipelineOptions(ELSEWHERE), Root("/root"), None, target("lmdb:///srv/kv"))


def test_a_job_server_that_is_not_there_is_said_with_where_its_name_leads():
    port, soon = free_port(), "--job_server_timeout=0"
    with pytest.raises(
        StoreError, match=rf"--job_endpoint 127.0.0.1:{port}: no job server there \(Connection refused\)$"
    ):
        find_job_server(PipelineOptions(["--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}", soon]))
    with pytest.raises(StoreError, match="the name is .* here, this host itself: mend its /etc/hosts or its DNS"):
        find_job_server(PipelineOptions(["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"]))
    find_job_server(PipelineOptions(["--runner=PortableRunner", "--job_endpoint=embed"]))


def test_a_job_server_that_sends_artifacts_to_this_host_is_named_with_the_flag_that_mends_it():
    said = "status = UNAVAILABLE, details = failed to connect; ipv4:0.0.0.0:8098: Connection refused (111)"
    found = explain_artifacts(said, PipelineOptions(ELSEWHERE))
    assert "192.0.2.1:8099 sends artifacts to 0.0.0.0:8098" in str(found)
    assert "give --artifact_endpoint=192.0.2.1:8098" in str(found)
    assert (
        explain_artifacts(said, PipelineOptions(HERE)) is explain_artifacts("other", PipelineOptions(ELSEWHERE)) is None
    )


@pytest.mark.parametrize("config", ["localhost:50000", '{"url": "localhost:50000", "params": {"mine": "1"}}'])
def test_a_worker_pool_is_told_the_launchers_version_and_refuses_another(config):
    options = PipelineOptions(
        ["--runner=PortableRunner", "--environment_type=EXTERNAL", f"--environment_config={config}"]
    )
    say_software(options)
    found = json.loads(options.view_as(PortableOptions).environment_config)
    assert found["url"] == "localhost:50000" and json.loads(found["params"].pop(SOFTWARE)) == dict(software())
    assert found["params"] == ({"mine": "1"} if "mine" in config else {})


def test_a_pool_of_another_version_starts_no_worker(monkeypatch):
    pool = WorkerPool()
    monkeypatch.setattr(pool, "_context", None)  # that would start one

    class Request:
        params = {SOFTWARE: json.dumps({"pinnerformer": "9.9"})}

    error = pool.StartWorker(Request, None).error
    explained = explain_worker_failure(RuntimeError(f"java.lang.RuntimeException: {error}"), None)
    assert isinstance(explained, StoreError) and "another version than the launcher: pinnerformer" in str(explained)


def test_a_job_that_an_older_worker_cannot_read_is_said_to_be_of_another_version():
    for said in (
        "ModuleNotFoundError: No module named 'transforms.host_check' [while running",
        "AttributeError: Can't get attribute 'New' on <module 'transforms.run' from",
    ):
        assert "another version of this project" in str(explain_worker_failure(RuntimeError(said), None))
    assert "another version" not in str(explain_worker_failure(RuntimeError("No module named 'yaml'"), None))
