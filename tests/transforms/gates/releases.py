"""Releases made of numbers only, for gates to look at."""

from collections.abc import Iterable, Sequence

from stores.files import FileEntry, Root
from stores.manifests import Manifest
from stores.names import Step
from transforms.gates import GateSpec, StagedRelease, Thresholds, check_gates
from transforms.step_reports import StepReport


def manifest_of(users: int, pins: int, indexed: int) -> Manifest:
    rows = {"histories": 0, "user_embeddings": users, "pin_embeddings": pins, "indexes": indexed}
    tables = {name: [FileEntry(f"{name}/x", 0, count, 0, "")] for name, count in rows.items()}
    return Manifest("2026-11-02", "2026-11-02", None, "", tables, [], {}, {}, [], {}, [])


def staged_of(
    manifest: Manifest,
    chain: Sequence[Manifest] = (),
    reports: dict[Step, StepReport] | None = None,
    root: Root | None = None,
) -> StagedRelease:
    """A staged release; without a root for gates that open no file."""
    return StagedRelease(root or Root("/nowhere"), manifest, reports or {}, chain, Thresholds())


def closed(gates: Iterable[GateSpec], staged: StagedRelease) -> list[str]:
    """Those of some gates that are closed."""
    return [gate.name for gate in check_gates(gates, staged) if not gate.passed]
