"""Pictures of the pages' Mermaid diagrams. GitHub draws these itself; the site shows `docs/diagrams/<digest>.svg`.

Mermaid draws in a browser, and three megabytes of JavaScript are no part of a page here. So the pictures are kept, each
named by the digest of what it shows. To make those that are missing and remove those that nothing shows any more, with
Chromium, Node and `npm pack mermaid` at hand:

    python -m website.diagrams --mermaid FOLDER/package/dist/mermaid.min.js
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile

FENCE = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
FOLDER = "docs/diagrams"
PAGE = """<!doctype html><meta charset="utf-8"><body><div id="out"></div>
<script src="file://{mermaid}"></script><script>
mermaid.initialize({{startOnLoad: false, theme: "neutral", htmlLabels: false, flowchart: {{htmlLabels: false}},
  fontFamily: "sans-serif"}});
mermaid.render("d", {source}).then(({{svg}}) => {{ document.getElementById("out").textContent = svg; }});
</script>"""


def name_of(source: str) -> str:
    """The file of a diagram's picture."""
    return f"{hashlib.sha256(source.encode()).hexdigest()[:12]}.svg"


def sources(text: str) -> list[str]:
    """The diagrams of a page, as Mermaid reads them."""
    return FENCE.findall(text)


def alternative(source: str) -> str:
    """A picture in words: its labels, in order."""
    source = source.replace("<br/>", ", ")
    labels = re.findall(r"[\[({]+\"?([^\[\](){}\"|]+)\"?[\])}]+|^ *\w+ : (.+)$", source, re.MULTILINE)
    return "Diagram: " + "; ".join(dict.fromkeys((first or second).strip() for first, second in labels))


def show(text: str, folder: str) -> str:
    """A page with pictures in the place of its diagrams.

    Args:
        folder: That of the pictures, as a page links to it.
    """
    return FENCE.sub(lambda found: f"![{alternative(found[1])}]({folder}/{name_of(found[1])}){{ .diagram }}\n", text)


def draw(source: str, mermaid: str) -> str:
    """The SVG that Mermaid makes of a diagram in a headless Chromium.

    Raises:
        RuntimeError: it made none.
    """
    import html
    import json

    with tempfile.TemporaryDirectory() as folder:
        page = os.path.join(folder, "page.html")
        with open(page, "w") as file:
            file.write(PAGE.format(mermaid=os.path.abspath(mermaid), source=json.dumps(source)))
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        command += ["--virtual-time-budget=20000", "--allow-file-access-from-files", "--dump-dom", f"file://{page}"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    found = re.search(r'<div id="out">(&lt;svg.*?)</div>', said, re.DOTALL)
    if found is None:
        raise RuntimeError(f"no picture of\n{source}\n{said[-2000:]}")
    return html.unescape(found[1]) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="website.diagrams", description=__doc__.split("\n")[0])
    parser.add_argument("--mermaid", required=True, metavar="FILE", help="mermaid.min.js")
    asked = parser.parse_args(argv)
    listed = subprocess.run(["git", "ls-files", "*.md"], capture_output=True, text=True, check=True).stdout.split()
    wanted = {}
    for page in listed:
        with open(page) as file:
            wanted.update({name_of(source): source for source in sources(file.read())})
    os.makedirs(FOLDER, exist_ok=True)
    for name in set(os.listdir(FOLDER)) - set(wanted):
        os.remove(os.path.join(FOLDER, name))
    for name in sorted(set(wanted) - set(os.listdir(FOLDER))):
        picture = draw(wanted[name], asked.mermaid)
        with open(os.path.join(FOLDER, name), "w") as file:
            file.write(picture)
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
