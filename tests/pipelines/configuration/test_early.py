"""What is known of a command before anything is loaded is what its flags turn out to be."""

import pytest

from pipelines.configuration.early import look_for


@pytest.mark.parametrize(
    ("words", "environ", "file", "found"),
    [
        ([], {}, "", None),
        (["--quiet"], {}, "", "true"),
        (["--quiet", "--root", "x"], {}, "", "true"),
        (["--quiet=false"], {"PINNERFORMER_QUIET": "true"}, "quiet: true\n", "false"),
        ([], {"PINNERFORMER_QUIET": "true", "PINNERFORMER_DAILY_QUIET": "false"}, "", "false"),
        ([], {"PINNERFORMER_QUIET": "true"}, "daily: {quiet: false}\n", "true"),
        ([], {}, "quiet: true\ndaily: {quiet: false}\n", "false"),
        ([], {}, "quiet: true\ngc: {quiet: false}\n", "true"),
        ([], {}, "no yaml: [\n", None),
    ],
)
def test_the_nearest_layer_is_taken(words, environ, file, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pinnerformer.yaml").write_text(file)
    assert look_for("quiet", "daily", words, environ) == found


def test_a_flag_with_a_value():
    assert look_for("log-format", "daily", ["--log-format", "json", "--config=none"], {}) == "json"
    assert look_for("log-format", "daily", ["--config=none", "--log-format=json"], {}) == "json"
