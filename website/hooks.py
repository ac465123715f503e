"""What MkDocs is told: pages from outside docs/, pages made of the code, links between them, pictures of diagrams."""

import os
import posixpath
import re

from website import diagrams, reference

# Page of the site -> the file that it is, where that lies outside docs/.
OUTSIDE = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "deploy/README.md": "deploy/README.md",
    "deploy/kubernetes.md": "deploy/kubernetes/README.md",
    "deploy/dataflow.md": "deploy/dataflow/README.md",
    "deploy/images.md": "deploy/images/README.md",
    "examples/completejourney.md": "examples/completejourney/README.md",
}
FILES = {"deploy/gates.yaml": "reference/gates.md#limits"}  # a file that pages link to -> where the site has it
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def page_of(path: str) -> str | None:
    """The page of the site that a file of the repository is; None where it is none."""
    pages = {file: page for page, file in OUTSIDE.items()} | FILES
    if path in pages:
        return pages[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def move_links(text: str, file: str, page: str) -> str:
    """The text of a file with its links as they are from its page of the site.

    Args:
        file: Where the text lies in the repository.
        page: Where the site has it.
    """

    def moved(match: re.Match[str]) -> str:
        target, hash_, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        found = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(file), target)))
        if found is None:
            return match[0]  # the build says that it leads nowhere
        path, has, own = found.partition("#")
        relative = posixpath.relpath(path, posixpath.dirname(page) or ".")
        return f"{match[1]}{relative}{has or hash_}{own or anchor}{match[3]}"

    parts = re.split(r"(^ *```.*?^ *```)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.lstrip().startswith("```") else LINK.sub(moved, part) for part in parts)


def on_files(files, config):
    """Adds the pages that do not lie under docs/."""
    from mkdocs.structure.files import File

    home = os.path.dirname(config.config_file_path)
    for page, path in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=os.path.join(home, path)))
    for page, make in reference.PAGES.items():
        files.append(File.generated(config, page, content=make()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they are on the site, and pictures of the diagrams that GitHub draws itself."""
    name = page.file.src_uri
    if name not in reference.PAGES:
        markdown = move_links(markdown, OUTSIDE.get(name, f"docs/{name}"), name)
    return diagrams.show(markdown, posixpath.relpath("diagrams", posixpath.dirname(name) or "."))
