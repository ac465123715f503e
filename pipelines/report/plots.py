"""Lines and histograms as SVG: pygal lays them out, the page's style sheet colours them in light, dark and print."""

import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 120, 26  # of a small line, px
CHART = {"width": 480, "height": 180}  # of a histogram: as wide as a phone, so that its words are read there


def small_line(values: Sequence[float | None], label: str) -> str:
    """A line through some values, oldest first, with a dot at its end; empty of fewer than two that are there.

    Args:
        values: Those that are None or not finite are passed over.
        label: For whoever does not see it.

    Returns:
        SVG, safe to put into a page.
    """
    drawn = [value if value is not None and math.isfinite(value) else None for value in values]
    if sum(value is not None for value in drawn) < 2:
        return ""
    pygal = _pygal()
    end = max(at for at, value in enumerate(drawn) if value is not None)
    words = ["" if at != end else "end" for at in range(len(drawn))]
    chart = pygal.Line(
        **_BARE, margin=3, width=WIDTH, height=HEIGHT, dots_size=2.5, show_only_major_dots=True, x_labels_major=["end"]
    )
    chart.x_labels, chart.show_x_labels, chart.show_y_labels, chart.show_y_guides = words, False, False, False
    chart.add("", drawn)
    return _svg(chart, "small", label)


def histogram(counts: Sequence[int], words: Sequence[str], label: str) -> str:
    """Columns of how many fall into each bin; empty where nothing does.

    Args:
        words: What the bins are, as many as counts; four of them stand below.
        label: For whoever does not see it.

    Returns:
        SVG, safe to put into a page.
    """
    if not any(counts):
        return ""
    pygal = _pygal()
    chart = pygal.Bar(
        **_BARE,
        **CHART,
        margin=8,
        margin_bottom=24,
        margin_left=44,
        margin_right=36,
        spacing=0,
        y_labels=_steps(max(counts)),
        truncate_label=-1,
        x_labels_major_count=4,
        show_minor_x_labels=False,
        formatter=lambda value: f"{value:,.0f}",
    )
    chart.x_labels = list(words)
    chart.add("", list(counts))
    return _svg(chart, "histogram", label)


def _steps(most: int) -> list[int]:
    """Up to five whole numbers from 0 on, at equal distances, that reach a highest column."""
    wide = max(1, 10 ** (len(str(most)) - 1))
    step = next(step for step in (wide // 4, wide // 2, wide, 2 * wide, 5 * wide) if step and 4 * step >= most)
    return [step * n for n in range(-(-most // step) + 1)]


FOR_SCRIPTS = ("reactive", "tooltip-trigger")  # classes that only pygal's script looks for
# Without legend, styles and scripts.
_BARE: dict[str, Any] = {"js": [], "css": [], "show_legend": False}


def _pygal() -> Any:
    import pygal  # no job but the end of one needs it
    from pygal.etree import etree

    etree.to_etree()  # the standard library's, whatever else is installed
    return pygal


def _svg(chart: Any, kind: str, label: str) -> str:
    """What a chart draws, without the styles, the script and the comments that pygal puts before it."""
    import markupsafe
    from pygal.etree import etree

    groups = [
        group
        for group in chart.render_tree()[-1]
        if group.get("class") in ("plot", "plot overlay")  # what follows is for scripts
    ]
    svg = etree.Element(
        "svg",
        {
            "class": kind,
            "viewBox": f"0 0 {chart.config.width} {chart.config.height}",
            "role": "img",
            "aria-label": label,
        },
    )
    svg.extend(groups)
    for element in list(svg.iter()):
        kept = [name for name in element.get("class", "").split() if name not in FOR_SCRIPTS]
        if kept:
            element.set("class", " ".join(kept))
        # A column says what it is and how high: what scripts of pygal's would show is a title.
        found = {child.get("class"): child for child in element if child.tag == "desc"}
        for child in found.values():
            element.remove(child)
        if "value" in found and kind == "histogram":
            title = etree.SubElement(element, "title")
            title.text = f"{found['x_label'].text}: {found['value'].text}"
    return markupsafe.Markup(etree.tostring(svg, encoding="unicode"))
