"""What must be known of a command before anything is loaded: the form of its lines, and whether it is to be quiet."""

from collections.abc import Collection, Mapping, Sequence

from pipelines.configuration.flags import SECTIONS_OF, variable
from pipelines.configuration.layers import choose_file
from pipelines.configuration.yaml_file import Entry, read_config_file
from stores.errors import UsageError


def look_for(flag: str, command: str, argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """What a flag is given, by the same layers as `layers.resolve`; `true` of a switch that stands alone.

    Of a file or a value that cannot be read it says nothing: whoever reads all flags will.
    """
    typed = [word for word in argv if word.partition("=")[0] == f"--{flag}"]
    if typed:
        _, equals, value = typed[-1].partition("=")
        following = argv[argv.index(typed[-1]) + 1 :][:1]
        return value if equals else next((word for word in following if not word.startswith("--")), "true")
    sections = SECTIONS_OF.get(command, (command,))
    for name in (*(variable(section, flag) for section in reversed(sections)), variable(flag)):
        if environ.get(name):
            return environ[name]
    try:
        path, _ = choose_file(argv, environ)
        entries = read_config_file(path).entries if path else ()
    except UsageError:
        return None
    found = {entry.key: entry for entry in entries}
    for section in reversed(sections):
        if section in found and (said := _value(flag, found[section].value.entries)) is not None:
            return said
    return _value(flag, entries)


def _value(flag: str, entries: Collection[Entry]) -> str | None:
    for entry in entries:
        if entry.key.replace("_", "-") == flag and entry.value.kind == "text":
            return entry.value.text
    return None
