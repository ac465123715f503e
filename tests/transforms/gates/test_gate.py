"""The list of gates: complete, documented, and named as users' scripts name them."""

import dataclasses

from tests.transforms.gates.releases import manifest_of, staged_of
from transforms.gates import ADVICE, GATES, Gate, GateSpec, StagedRelease, Threshold, Thresholds, check_gates, gate
from transforms.gates.gate import Measured, at_least, at_most

FIRST_VERSION = """
rows_dropped_share users_failed_share rows_unaccounted users_unaccounted snapshot_rows_unaccounted pins_unaccounted
users_present pins_present pins_not_indexed pins_unfindable users_lost_share pins_lost_share
rows_against_week rows_against_weekday active_against_week active_against_weekday vectorless_share vectorless_rise
users_not_finite users_norm users_constant pins_not_finite pins_norm pins_constant
cosine_drift canaries_cosine pin_vectors_cosine users_alike pins_alike index_recall_at_10 coverage_pins coverage_fall
""".split()


def test_gates_keep_their_names_and_their_order():
    """`--force-gate` and manifests name them; a function that is renamed renames its gate."""
    assert [gate.name for gate in GATES if gate.name in FIRST_VERSION] == FIRST_VERSION
    assert len({gate.name for gate in GATES}) == len(GATES)


def test_every_gate_says_where_to_look():
    assert len(GATES) > 12
    for spec in GATES:
        assert spec.advice and ADVICE[spec.name] == spec.advice, spec.name
        assert spec.closes_when.endswith("."), spec.name


def row(spec: GateSpec) -> str:
    """A gate's row in `docs/gates.md`."""
    limit = spec.limit.default if isinstance(spec.limit, Threshold) else spec.limit
    cells = [
        f"`{spec.name}`",
        spec.closes_when[0].lower() + spec.closes_when[1:].removesuffix("."),
        f"{'>=' if spec.at_least else '<='} {limit:g}",
        ", ".join(f"`{threshold.name}`" for threshold in spec.thresholds) or "fixed",
        spec.advice,
    ]
    return f"| {' | '.join(cells)} |"


def test_the_documentation_lists_every_gate():
    """Row by row as it is declared; a row that this test misses can be copied from its message."""
    with open("docs/gates.md") as file:
        found = [line for line in file.read().splitlines() if line.startswith("| `")]
    wanted = [row(spec) for spec in GATES]
    assert found == wanted, "\n".join(["docs/gates.md needs:", *(line for line in wanted if line not in found)])


def test_the_name_of_a_threshold_says_its_direction():
    for spec in GATES:
        if isinstance(spec.limit, Threshold) and spec.limit.name != "norm_tolerance":
            assert spec.limit.name.startswith("min_" if spec.at_least else "max_"), spec.limit.name


def test_a_gate_closes_on_nan():
    nan = float("nan")
    assert not gate.compare("x", nan, 1, "").passed and not gate.compare("x", nan, 1, "", at_least=True).passed


def test_a_gate_is_its_function_its_limit_and_its_direction():
    most, least = Threshold("max_alike", 0.5, "only its name counts here"), 3

    @at_most(most, advice="there")
    def share(staged: StagedRelease) -> Measured:
        """Too much."""
        return Measured(value, "a share", chance)

    @at_least(least, advice="here")
    def number(staged: StagedRelease) -> Measured | None:
        """Too little, which is
        too bad.

        And more about it.
        """
        return Measured(value, "a number") if value >= 0 else None

    staged = staged_of(manifest_of(1, 1, 1))
    value, chance = 0.9999, 0.0
    assert share(staged) == Gate("share", 0.9999, 0.9999, True, "a share")
    value = 1.2
    assert share(staged) == Gate("share", 1.2, 0.9999, False, "a share")
    chance = 0.3
    assert share(staged) == Gate("share", 1.2, 0.9999 + 0.3, True, "a share")
    assert number(staged) == Gate("number", 1.2, 3.0, False, "a number", at_least=True)
    assert number.closes_when == "Too little, which is too bad."
    value = -1.0
    assert check_gates([number, share], staged) == [Gate("share", -1.0, 0.9999 + 0.3, True, "a share")]
    moved = dataclasses.replace(staged, thresholds=Thresholds(max_alike=0.5))
    assert check_gates([share], moved) == [Gate("share", -1.0, 0.5 + 0.3, True, "a share")]
