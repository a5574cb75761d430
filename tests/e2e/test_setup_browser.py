"""Making a GitHub App in a real browser: what its policies, forms and redirects make of the page.

The browser is Debian's Chromium, driven by WebDriver.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from forges.github.app import stored_app
from tests.conftest import missing
from tests.forges.github import GitHub, serving_github
from tests.integration.gateway.harness import Gateway, running
from tests.waiting import until


@pytest.fixture
def browser(short_tmp: Path) -> Iterator[webdriver.Chrome]:
    driver = shutil.which("chromedriver")
    if not driver or not shutil.which("chromium"):
        missing("there is no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    profile = f"--user-data-dir={short_tmp / 'profile'}"
    for each in ("--headless=new", profile, "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(each)
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    started.set_page_load_timeout(60)
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture
def hub(short_tmp: Path) -> Iterator[GitHub]:
    with serving_github(short_tmp / "hub") as found:
        yield found


@pytest.fixture
def gateway(short_tmp: Path, valkey: str, hub: GitHub) -> Iterator[Gateway]:
    with running(short_tmp, valkey, SLIPWAY_GITHUB_URL=hub.url) as found:
        yield found


def press(browser: webdriver.Chrome, button: str, then: str) -> None:
    browser.find_element(By.ID, button).click()
    until(lambda: bool(browser.find_elements(By.ID, then)), 20, lambda: browser.page_source)


def test_an_app_is_made_in_a_browser(
    browser: webdriver.Chrome, gateway: Gateway, hub: GitHub
) -> None:
    user, password = gateway.auth
    browser.get(gateway.url.replace("://", f"://{user}:{password}@") + "/setup/github")
    browser.find_element(By.NAME, "organization").send_keys("acme")
    press(browser, "choose", "create")
    until(lambda: "of acme" in browser.page_source, 20, lambda: browser.page_source)
    browser.find_element(By.ID, "create").click()
    until(lambda: browser.current_url.startswith(hub.url), 20, lambda: browser.current_url)
    assert "Create GitHub App" in browser.page_source
    press(browser, "create", "install")
    assert browser.current_url == f"{gateway.url}/setup/github"
    app = stored_app(gateway.settings)
    assert hub.apps[app.id].owner.login == "acme"
    link = browser.find_element(By.ID, "install").get_attribute("href")
    assert link == f"{hub.url}/github-apps/{app.slug}/installations/new"
    width = browser.find_element(By.TAG_NAME, "body").value_of_css_property("max-width")
    assert width == "640px", "its style is allowed by its policy"
    troubles = [each["message"] for each in browser.get_log("browser")]
    assert not [each for each in troubles if "Content Security Policy" in each]
    press(browser, "replace", "create")
