"""The model as workers get it: read once a process, and only what the run was started with."""

import pytest

from pinnerformer_model.checkpoint import CONFIG, model_digest
from stores.errors import InputError
from tests.worlds import write_model
from transforms.model import ModelReference


def test_a_process_reads_a_model_once(tmp_path):
    write_model(f"{tmp_path}/model")
    reference = ModelReference(f"{tmp_path}/model", model_digest(f"{tmp_path}/model"))
    loaded = reference.load()
    assert ModelReference(reference.directory, reference.digest, threads=1).load() is loaded


def test_a_model_of_another_digest_is_refused_though_one_of_that_folder_was_read(tmp_path):
    write_model(f"{tmp_path}/model")
    digest = model_digest(f"{tmp_path}/model")
    ModelReference(f"{tmp_path}/model", digest).load()
    with open(f"{tmp_path}/model/{CONFIG}", "a") as file:
        file.write("\n")
    with pytest.raises(InputError, match="changed during the run"):
        ModelReference(f"{tmp_path}/model", digest[::-1]).load()
