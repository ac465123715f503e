"""`pinnerformer check-inputs`: what a night would make of logs, vectors, model and root; writes nothing."""

import dataclasses
import datetime
import sys

from pipelines.checking.findings import Finding, Level, Part, count, exit_code, mending_flags, yaml_lines
from pipelines.checking.log_part import LogsAsked, LogsFound, look_at_logs
from pipelines.checking.model_part import compare_words, describe_histories, look_at_model
from pipelines.checking.night_part import (
    RootFound,
    foretell_night,
    lead_to_model,
    lead_to_vectors,
    look_at_root,
    look_at_start,
    look_at_store,
)
from pipelines.checking.samples import Watch
from pipelines.checking.screen import print_report
from pipelines.checking.vector_part import VectorsAsked, compare_with_model, look_at_vectors
from pipelines.operations.figures import as_json
from pipelines.planning.check_request import NEEDED, CheckRequest, parse
from stores.column_names import ColumnNames
from stores.errors import UsageError
from stores.layout import Layout


def look(request: CheckRequest, watch: Watch) -> list[Part]:
    """Every part there is something to say of, in the order of the screen."""
    night, missing = request.night, request.missing
    job = night.job
    root_part, root = Part("root"), RootFound(None, None)
    if "root" not in missing:
        root_part, root = look_at_root(job.root)
    logs_part, logs = Part("logs"), None
    if "logs" not in missing:
        logs_part, logs = look_at_logs(logs_asked(request, root), watch)
    vectors_part, columns = look_at_what_is_given(request, logs, watch)
    model_part, config = Part("model"), None
    if "model" not in missing:
        model_part, config = look_at_model(job.model)
        if config is not None and logs is not None:
            compare_words(model_part, config, logs)
        if config is not None and columns is not None:
            compare_with_model(vectors_part, job.pins, columns, config, logs)
    elif not {"logs", "pins"} & missing:
        model_part.findings.append(lead_to_model(job.logs, job.pins))
    if logs is not None:
        layout = root.layout or Layout(**job.requested_layout)
        describe_histories(logs_part, logs, config, layout.history_length)
    parts = [logs_part, vectors_part, model_part, root_part]
    return [*parts, look_at_night(request, parts, root, logs)]


def logs_asked(request: CheckRequest, root: RootFound) -> LogsAsked:
    """What of the logs is looked at."""
    job = request.night.job
    first = root.current.day + datetime.timedelta(1) if root.current else request.night.bootstrap_from
    return LogsAsked(
        job.logs, job.columns, job.days, job.min_age_s, first, request.date, request.most_rows, job.thresholds
    )


def look_at_what_is_given(
    request: CheckRequest, logs: LogsFound | None, watch: Watch
) -> tuple[Part, ColumnNames | None]:
    """The part of the vectors, and the columns under which they can be read; where there are none, what to do."""
    job = request.night.job
    if "pins" not in request.missing:
        columns = logs.columns if logs else job.columns
        return look_at_vectors(VectorsAsked(job.pins, columns, request.most_rows, job.thresholds), logs, watch)
    part = Part("vectors")
    if logs is not None:
        part.findings.append(lead_to_vectors(job.logs, logs.newest))
    return part, None


def look_at_night(request: CheckRequest, parts: list[Part], root: RootFound, logs: LogsFound | None) -> Part:
    """What `daily` says to these flags: by its own checks where everything is given, else what is missing."""
    part = Part("night")
    date = request.date or (max(logs.partitions) if logs else None)
    night = request.night
    if request.missing or date is None:
        names = [f"--{name}" for name in NEEDED if name in request.missing]
        part.headline = f"not given: {', '.join(names)}"
        if names:
            where = ", and --kv URL or --publish none" if request.unpublished else ""
            part.find(Level.STOPS, f"daily needs {', '.join(names)}{where}", exit_code=UsageError.exit_code)
        return part
    look_at_start(part, night, root, logs)
    if request.unpublished is not None:
        part.refuse(request.unpublished, flags=(("publish", "none"),))
    look_at_store(part, request.target)
    explained = any(finding.level == Level.STOPS for one in [*parts, part] for finding in one.findings)
    refused, layout = foretell_night(part, dataclasses.replace(night, date=date), logs)
    if layout is not None:
        part.figures["layout"] = dataclasses.asdict(layout)
    # Said once: where a part above has explained it, with all there is of its kind and with what mends it, not here.
    if refused is not None and not explained:
        part.findings.append(refused)
    return part


def verdict(request: CheckRequest, findings: list[Finding]) -> str:
    """What becomes of the night, in one line."""
    stops = sum(finding.level == Level.STOPS for finding in findings)
    closes = sum(finding.level == Level.CLOSES for finding in findings)
    if stops:
        return f"daily would not start, or fail: {count(stops, 'finding')} above to mend first"
    if closes:
        return f"daily would start, and its release be refused: {count(closes, 'gate')} would close"
    return "daily would start"


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    parts = look(request, Watch(shown=not request.night.job.quiet))
    findings = [finding for part in parts for finding in part.findings]
    code = exit_code(findings)
    if request.json:
        flags = mending_flags(findings)
        report = {part.name: part.to_json() for part in parts}
        print(as_json({"would_start": code == 0, "exit_code": code, **report, "yaml": yaml_lines(flags)}))
    else:
        shown = [part for part in parts if part.headline or part.findings]
        print_report(shown, verdict(request, findings), code == 0, sys.stdout)
    return code
