"""The explorer in a real browser: phones and desks, light and dark, by keyboard, and nothing asked of other machines.

`SCREENSHOTS=FOLDER` keeps the pictures that these tests take.
"""

import base64
import contextlib
import os
import re
from collections.abc import Iterator

import pytest

from tests.pipelines.explorer.conftest import HOST, Explored
from tests.pipelines.serving.running import serving

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Watched:
    """A page and what went wrong on it: `said` of the console, `elsewhere` asked of other machines."""

    def __init__(self, context, answer_pictures: bool = False):
        self.said: list[str] = []
        self.elsewhere: list[str] = []
        context.route("**/*", self._route)
        self._answer_pictures = answer_pictures
        self.page = context.new_page()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def _route(self, route) -> None:
        url = route.request.url
        if url.startswith("http://127.0.0.1:"):
            route.continue_()
            return
        self.elsewhere.append(url)
        if self._answer_pictures:
            route.fulfill(body=PIXEL, content_type="image/png")
        else:
            route.abort()

    def see(self, name: str) -> None:
        """Keeps a picture where somebody wants them; whatever the page, it fits the window and named all it shows."""
        from axe_playwright_python.sync_playwright import Axe

        page = self.page
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        found = Axe().run(page).response["violations"]
        assert not found, [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]
        folder = os.environ.get("SCREENSHOTS")
        if folder:
            page.screenshot(path=f"{folder}/explorer-{name}.png", full_page=True)


@contextlib.contextmanager
def watched(chromium, width: int, scheme: str, answer_pictures: bool = False) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(60_000)
    try:
        found = Watched(context, answer_pictures)
        yield found
    finally:
        context.close()
    assert found.said == []


@pytest.fixture(scope="module")
def without_pictures(explored, tmp_path_factory):
    """The same root and no catalogue: nothing can be asked of another machine."""
    with serving(explored.made.root, explored.made.kv) as client:
        yield Explored(explored.made, client, explored.users, explored.hostile)


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light"), (400, "light"), (1400, "dark")])
def test_pages_fit_and_ask_nothing_of_other_machines(width, scheme, without_pictures, chromium):
    with watched(chromium, width, scheme) as seen:
        page, name = seen.page, f"{width}-{scheme}"
        page.goto(without_pictures.url("/"))
        seen.see(f"start-{name}")
        page.get_by_role("region", name="Most changed tonight").get_by_role("link").first.click()
        assert page.get_by_role("heading", level=1).inner_text().startswith("User ")
        seen.see(f"user-{name}")
        page.get_by_label("Beside").select_option(label="2026-11-03")
        page.wait_for_url(re.compile("beside=0%402026-11-03"))
        assert page.get_by_role("region", name="Retrieved by 2026-11-03").is_visible()
        seen.see(f"beside-{name}")
        page.get_by_role("region", name="History").get_by_role("link").first.click()
        page.wait_for_url(re.compile("/pin[?]"))
        seen.see(f"pin-{name}")
        assert seen.elsewhere == []


def test_the_keyboard_is_enough(without_pictures, chromium):
    with watched(chromium, 1400, "light") as seen:
        page = seen.page
        page.goto(without_pictures.url("/"))
        page.keyboard.press("/")
        page.keyboard.type(str(without_pictures.users[1]))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(f"/user[?]id={without_pictures.users[1]}&view=0%40"))
        assert page.get_by_role("heading", level=1).inner_text() == f"User {without_pictures.users[1]}"
        pins = page.locator(".pin .name")
        page.keyboard.press("j")
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.textContent") == pins.nth(1).inner_text()
        page.keyboard.press("k")
        assert page.evaluate("document.activeElement.textContent") == pins.nth(0).inner_text()
        reason = page.locator("[data-row]").first
        row = reason.get_attribute("data-row")
        reason.locator(".name").focus()
        assert page.locator(f"#{row}.pointed").count() == 1
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("/pin[?]id="))
        page.keyboard.press("r")
        page.wait_for_url(re.compile("/user[?]id="))
        page.get_by_role("link", name="Skip to the page").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def test_names_are_text_and_pictures_come_from_allowed_hosts_only(explored, chromium):
    with watched(chromium, 1400, "light", answer_pictures=True) as seen:
        page = seen.page
        page.goto(explored.url(f"/user?id={explored.users[0]}"))
        page.wait_for_load_state("networkidle")
        assert page.title() == f"User {explored.users[0]} - pinnerformer"
        assert page.locator("script").count() == 1 and page.locator("[onmouseover]").count() == 0
        first = page.get_by_role("region", name="Retrieved").get_by_role("listitem").first
        assert "<script>document.title" in first.inner_text() and first.locator("img").count() == 0
        assert page.locator(".picture img").count() > 5
        seen.see("user-with-pictures")
        page.get_by_label("only new to them").click()
        page.wait_for_url(re.compile("new=true"))
        assert page.get_by_text("engaged before").count() == 0
        page.goto(explored.url(f"/pin?id={explored.hostile}"))
        assert page.get_by_role("link", name="its page").count() == 0
        assert seen.elsewhere and all(url.startswith(f"https://{HOST}/") for url in seen.elsewhere)


def test_a_picture_that_cannot_be_loaded_leaves_its_tile(explored, chromium):
    with watched(chromium, 1400, "light") as seen:
        seen.page.goto(explored.url(f"/user?id={explored.users[0]}"))
        seen.page.wait_for_load_state("networkidle")
        seen.page.locator("#row0 img").wait_for(state="detached")
        assert seen.page.locator("#row0 .tile").inner_text() != ""
        assert all("Failed to load resource" in one for one in seen.said)
        seen.said.clear()
