"""Small worlds to run the job on, and the daily job written as plainly as possible."""

import dataclasses
import datetime
import json
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinnerformer_model.checkpoint import new_model, save_model
from pinnerformer_model.config import preset
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS
from tests.pinnerformer_model.reference import ReferenceModel

DAY_MS = 86_400_000
FIRST = datetime.date(2026, 11, 1)
ACTIONS, SURFACES = ("click", "closeup", "repin"), ("board", "home", "search")
SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("pin_id", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("action", pa.string()),
        ("surface", pa.string()),
        ("duration_s", pa.float32()),
    ]
)

Row = dict[str, Any]


def day(number: int) -> datetime.date:
    return FIRST + datetime.timedelta(number)


def midnight(number: int) -> int:
    return (day(number) - datetime.date(1970, 1, 1)).days * DAY_MS


def write_file(logs: str, number: int, rows: list[Row], name: str = "a.parquet", success: bool = True) -> str:
    """Writes one log file into the partition of a day; returns its path."""
    folder = os.path.join(logs, f"ds={day(number)}")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=97)
    if success:
        open(os.path.join(folder, "_SUCCESS"), "w").close()
    return path


def write_vectors(folder: str, vectors: dict[int, np.ndarray], version: str = "v1", width: int = 256) -> None:
    """Writes pin_id -> float16 vector as a vector set."""
    os.makedirs(folder, exist_ok=True)
    flat = np.concatenate([np.asarray(v, np.float16) for v in vectors.values()])
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    table = pa.table([pa.array(list(vectors), pa.int64()), column], names=["pin_id", "vector"])
    pq.write_table(table, os.path.join(folder, "vectors.parquet"), row_group_size=31)
    with open(os.path.join(folder, "version.json"), "w") as file:
        json.dump({"pinsage_version": version}, file)


def write_model(folder: str, seed: int = 1, version: str = "v1", until: datetime.date | None = None) -> str:
    """Writes a model of initial weights; with `until` as one that was trained up to that day."""
    config = preset("tiny", action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version=version)
    config = config.trained(until, 7, 0.1) if until else config
    save_model(folder, config, *new_model(config, seed))
    return folder


def make_vectors(pins: int, seed: int = 5) -> dict[int, np.ndarray]:
    """pin_id -> unit float16 vector; one pin in ten has none, one has the zero vector."""
    random = np.random.default_rng(seed)
    vectors = {}
    for pin in range(pins):
        vector = random.standard_normal(256)
        if pin % 10 != 9:
            vectors[pin] = (vector / np.linalg.norm(vector)).astype(np.float16)
    vectors[3] = np.zeros(256, np.float16)
    return vectors


def make_rows(number: int, count: int, users: int, pins: int, seed: int) -> list[Row]:
    """A day's rows: ties in time, repeats, an action the model does not know, null durations, some invalid rows."""
    random = np.random.default_rng([seed, number])
    rows: list[Row] = []
    for _ in range(count):
        rows.append(
            {
                "user_id": int(users * random.random() ** 3) - 5,  # ids may be negative
                "pin_id": int(random.integers(0, pins)),
                "timestamp_ms": midnight(number) + int(random.integers(0, 400)) * 200_000,
                "action": str(random.choice([*ACTIONS, "unheard_of"], p=[0.4, 0.3, 0.25, 0.05])),
                "surface": str(random.choice(SURFACES)),
                "duration_s": None if random.random() < 0.5 else float(np.float32(random.exponential(10))),
            }
        )
    rows += [dict(row) for row in rows[:7]]  # repeated
    rows.append({**rows[0], "pin_id": -4})
    rows.append({**rows[1], "timestamp_ms": midnight(number + 1)})
    rows.append({**rows[2], "timestamp_ms": midnight(number - 367)})
    rows.append({**rows[3], "user_id": None})
    rows.append({**rows[4], "duration_s": -1.0})
    return rows


def is_valid(row: Row, number: int) -> bool:
    """Whether a row of the partition of a day is one that the histories take."""
    if any(row[name] is None for name in ("user_id", "pin_id", "timestamp_ms", "action", "surface")):
        return False
    too_late = row["timestamp_ms"] >= midnight(number + 1)
    too_old = row["timestamp_ms"] < midnight(number - 366)
    return row["pin_id"] >= 0 and not too_late and not too_old and (row["duration_s"] or 0) >= 0


def order_of(row: Row) -> tuple:
    """Newest first; then pin, action, surface, duration; null last."""
    duration = row["duration_s"]
    return (
        -row["timestamp_ms"],
        row["pin_id"],
        row["action"],
        row["surface"],
        duration is None,
        duration or 0.0,
    )


@dataclasses.dataclass
class PlainJob:
    """The daily job, one user at a time; state as it stands after the last night."""

    model_folder: str
    vectors: dict[int, np.ndarray]
    history_length: int
    histories: dict[int, list[Row]] = dataclasses.field(default_factory=dict)
    embeddings: dict[int, tuple[np.ndarray, datetime.date]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.model = ReferenceModel(self.model_folder, ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS)

    def night(self, number: int, files: list[tuple[int, list[Row]]]) -> set[int]:
        """Runs one night on (partition, rows) files; returns the active users."""
        by_user: dict[int, list[Row]] = {}
        for partition, rows in files:
            for row in rows:
                if is_valid(row, partition):
                    by_user.setdefault(row["user_id"], []).append(row)
        active = set()
        for user, new in by_user.items():
            before = self.histories.get(user, [])
            distinct = {order_of(row): row for row in before + new}
            after = [distinct[key] for key in sorted(distinct)][: self.history_length]
            if after != before:
                active.add(user)
                self.histories[user] = after
        for user in active:
            vector = self.embed(self.histories[user])
            if vector is not None:
                self.embeddings[user] = (vector, day(number))
        return active

    def embed(self, history: list[Row]) -> np.ndarray | None:
        usable = [
            {**row, "vector": self.vectors[row["pin_id"]]}
            for row in history
            if row["pin_id"] in self.vectors
            and self.vectors[row["pin_id"]].any()
            and row["action"] in ACTIONS
            and row["surface"] in SURFACES
        ][: self.model.config["max_sequence_length"]]
        return self.model.user(usable) if usable else None

    def pins(self) -> dict[int, np.ndarray]:
        return {pin: self.model.pin(vector) for pin, vector in self.vectors.items() if vector.any()}
