"""`pinnerformer init`: stub."""

from pipelines.arguments import Parser


def make_parser() -> Parser:
    """The flags of `pinnerformer init`."""
    return Parser(prog="pinnerformer init", description="x", configurable=False)


def main(argv: list[str]) -> int:
    make_parser().parse_args(argv)
    return 0
