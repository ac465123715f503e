"""The job as Dataflow's own client would send it: built offline, and looked into."""

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext

from pipelines.daily_inference import define_pipeline
from pipelines.planning.daily_plan import plan_daily
from pipelines.planning.daily_request import parse
from tests.engines.nights import make_world
from tests.worlds import FIRST, day

IMAGE = "europe-west4-docker.pkg.dev/project/repository/pinnerformer:1"
L4 = "type:nvidia-l4;count:1;install-nvidia-driver"
BEAM = ["--runner=DataflowRunner", "--dry_run=True", "--no_auth", "--project=some-project", "--region=europe-west4"]
BEAM += ["--temp_location=gs://some-bucket/temp", "--staging_location=gs://some-bucket/staging"]
BEAM += [f"--sdk_container_image={IMAGE}", "--experiments=use_runner_v2"]
BRANCHES = ("ShardVectors EmbedPins ListLogs ReadLogs UpdateHistories JoinPinVectors EmbedUsers").split()
BRANCHES += "MergeSnapshot AllReports Measure Collect Barrier CheckCommitPublish".split()


def build(folder: str, *flags: str) -> beam_runner_api_pb2.Pipeline:
    """The pipeline that would be submitted."""
    given = [f"--root={folder}/root", *make_world(folder), f"--date={day(0)}", f"--bootstrap-from={FIRST}"]
    request = parse([*given, "--kv=env:KV_URL", "--user-buckets=2048", *flags, *BEAM])
    pipeline = beam.Pipeline(runner="DataflowRunner", options=request.night.job.beam)
    define_pipeline(pipeline, plan_daily(request.night), request.target)
    return pipeline.run().job.proto_pipeline


@pytest.fixture(scope="module", params=["broadcast", "shuffle"])
def sent(request, tmp_path_factory):
    return build(str(tmp_path_factory.mktemp("world")), f"--join={request.param}")


@pytest.fixture(scope="module")
def on_gpus(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("world"))
    return build(folder, "--device=cuda", f"--embed-accelerator={L4}", "--embed-ram=24GB")


def environment_of(pipeline, name: str):
    """The environment of a step's DoFn, by the step's full name."""
    found = {
        pipeline.components.environments[t.environment_id].SerializeToString(deterministic=True): t.environment_id
        for t in pipeline.components.transforms.values()
        if t.unique_name.startswith(name) and t.environment_id
    }
    (environment_id,) = found.values()
    return pipeline.components.environments[environment_id]


def test_every_step_is_there_and_runs_in_our_container(sent):
    names = {t.unique_name.split("/")[0] for t in sent.components.transforms.values()}
    assert set(BRANCHES) <= names
    for environment in sent.components.environments.values():
        payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
        assert payload.container_image == IMAGE


def test_keys_have_deterministic_coders(sent):
    context = PipelineContext(sent.components)
    grouped = 0
    for transform in sent.components.transforms.values():
        if transform.spec.urn == common_urns.primitives.GROUP_BY_KEY.urn:
            (collection,) = transform.inputs.values()
            coder = context.coders.get_by_id(sent.components.pcollections[collection].coder_id)
            assert isinstance(coder, coders.TupleCoder), transform.unique_name
            assert coder.key_coder().is_deterministic(), transform.unique_name
            grouped += 1
    assert grouped >= 4


def test_join_and_tower_ask_for_the_same_gpu_and_nothing_else_does(on_gpus):
    hinted = [environment_of(on_gpus, name) for name in ("JoinPinVectors", "EmbedUsers")]
    for environment in hinted:
        hints = environment.resource_hints
        assert hints["beam:resources:accelerator:v1"] == L4.encode()
        assert int(hints["beam:resources:min_ram_bytes:v1"]) == 24 * 10**9
    for name in ("ReadLogs", "UpdateHistories", "MergeSnapshot", "EmbedPins", "CheckCommitPublish"):
        assert "beam:resources:accelerator:v1" not in environment_of(on_gpus, name).resource_hints


def test_nothing_big_is_part_of_the_job(sent):
    for transform in sent.components.transforms.values():
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            assert len(transform.spec.payload) < 200_000, transform.unique_name
    assert sent.ByteSize() < 2_000_000  # Dataflow's limit is 10 MB as JSON
