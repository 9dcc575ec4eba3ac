"""The page in headless Chromium: mouse, keyboard, phone width, and what it may load."""

import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium, of the extra `dev`, is not installed")
pytest.importorskip("fastapi", reason="fastapi, of the extra `serve`, is not installed")
pytest.importorskip("uvicorn", reason="uvicorn, of the extra `serve`, is not installed")

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from hm4sr.data.dataset import Dataset
from hm4sr.serving.recommender import Recommender

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import ITEMS, USERS, add_features, make_dataset, make_run, started_service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromium-driver (Debian's packages) are not installed"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,900"
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    add_features(make_dataset(folder / "data", pictures=[f"{number}.png" for number in range(len(ITEMS))]))
    for number in range(len(ITEMS)):
        Image.new("RGB", (40, 30), (12 * number, 90, 160)).save(folder / "data" / f"{number}.png")
    for name in ("hm4sr", "sasrec"):
        make_run(folder / name, Dataset.open(folder / "data"), name)
    return folder


@pytest.fixture(scope="module")
def address(shop):
    limits = ["--set", "limits.deadline_seconds=60"]
    with started_service(
        shop / "hm4sr", "--beside", shop / "sasrec", *limits, HM4SR_TOKEN="s3cret"
    ) as service:
        yield f"http://127.0.0.1:{service.port}/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, address):
    """The page with the token given, an empty history, and answers for it."""
    browser.get(address)
    if not browser.execute_script("return sessionStorage.getItem('token')"):
        wait(browser, lambda: browser.find_element(By.ID, "token").is_displayed())
        wait(browser, lambda: "token is missing" in status(browser))  # said once the field is shown
        browser.find_element(By.ID, "token").send_keys("s3cret", Keys.ENTER)
    wait(browser, lambda: "after" in status(browser) and items(browser))
    browser.find_element(By.ID, "clear").click()
    wait(browser, lambda: "after 0 events" in status(browser))
    browser.get_log("browser")
    return browser


def wait(browser, condition):
    stale = [StaleElementReferenceException]  # answers are replaced while one looks
    return WebDriverWait(browser, 90, 0.05, stale).until(lambda _: condition())


def status(browser):
    return browser.find_element(By.ID, "status").text


def items(browser, run="hm4sr"):
    lines = browser.find_elements(By.CSS_SELECTOR, f"[data-run='{run}'] .answers > li")
    return [line.get_attribute("data-item") for line in lines]


def add(browser, words, count):
    field = browser.find_element(By.ID, "words")
    field.clear()
    field.send_keys(words, Keys.ENTER)
    wait(browser, lambda: f"after {count} events" in status(browser))


def found(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#found button")


def test_a_history_is_built_by_keyboard_and_answered_by_both_runs(page, shop):
    assert "most popular" in page.find_element(By.ID, "columns").text
    add(page, "Käse", 1)
    add(page, "i9", 2)
    when = page.find_elements(By.CSS_SELECTOR, "#history input")
    assert [field.accessible_name for field in when] == [
        "Time of Title of Käse, UTC",
        "Time of Title of i9, UTC",
    ]
    recommenders = {name: Recommender.load(shop / name) for name in ("hm4sr", "sasrec")}
    first = recommenders["hm4sr"].invented
    history = [("Käse", first.last), ("i9", first.last + first.gap)]
    for run, recommender in recommenders.items():
        answer = recommender.recommend(histories=history, k=8)[0]
        assert items(page, run) == [item.item_id for item in answer.items]
    shares = page.find_element(By.CSS_SELECTOR, "[data-run='hm4sr'] .shares").text
    assert [part.split()[0] for part in shares.split(" · ")] == ["id", "image", "text"]
    reasons = page.find_element(By.CSS_SELECTOR, "[data-run='hm4sr'] .reasons").text
    assert "spoke" in reasons
    assert page.find_elements(By.CSS_SELECTOR, "[data-run='hm4sr'] .gates tbody tr")
    assert not page.find_elements(By.CSS_SELECTOR, "[data-run='sasrec'] .gates")


def test_switching_off_shows_what_changes(page, shop):
    add(page, "Käse", 1)
    add(page, "i9", 2)
    full = items(page)
    page.find_element(By.CSS_SELECTOR, "[data-modality='id']").click()
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, "[data-run='hm4sr'] .moved"))
    now = items(page)
    assert now != full
    for place, line in enumerate(page.find_elements(By.CSS_SELECTOR, "[data-run='hm4sr'] .answers > li")):
        item = now[place]
        expected = (
            "new here"
            if item not in full
            else "same place"
            if full.index(item) == place
            else f"(was {full.index(item) + 1})"
        )
        assert expected in line.find_element(By.CLASS_NAME, "moved").text
    gone = page.find_elements(By.CSS_SELECTOR, "[data-run='hm4sr'] .gone li")
    assert len(gone) == len(set(full) - set(now))
    page.find_element(By.CSS_SELECTOR, "[data-modality='time']").click()
    wait(page, lambda: "Times are switched off" in page.find_element(By.ID, "columns").text)


def test_times_order_the_history(page):
    add(page, "Käse", 1)
    add(page, "i9", 2)
    page.execute_script(
        "const field = document.querySelectorAll('#history input')[1];"
        "field.value = '2001-02-03T04:05:06'; field.dispatchEvent(new Event('change'));"
    )
    titles = [title.text for title in page.find_elements(By.CSS_SELECTOR, "#history .title")]
    assert titles == ["Title of i9", "Title of Käse"]
    assert page.switch_to.active_element.accessible_name == "Time of Title of i9, UTC"
    page.find_element(By.CSS_SELECTOR, "#history button").send_keys(Keys.ENTER)
    wait(page, lambda: "after 1 events" in status(page))
    assert page.switch_to.active_element.accessible_name == "Remove Title of Käse"


def test_a_known_user_an_example_and_the_options(page):
    page.find_element(By.CSS_SELECTOR, "#build summary").click()
    page.find_element(By.ID, "user").send_keys(USERS[0], Keys.ENTER)
    wait(page, lambda: "after 4 events" in status(page))
    page.find_element(By.ID, "user").clear()
    page.find_element(By.ID, "user").send_keys("nobody", Keys.ENTER)
    wait(page, lambda: "user 'nobody' is not known" in status(page))
    page.find_element(By.ID, "example").click()
    wait(page, lambda: "after" in status(page) and len(items(page)) == 8)
    Select(page.find_element(By.ID, "category")).select_by_visible_text("odd")
    wait(page, lambda: items(page) and all(ITEMS.index(item) % 2 for item in items(page)))


def test_arrow_keys_walk_among_the_found_items(page):
    field = page.find_element(By.ID, "words")
    field.clear()
    field.send_keys("title")
    wait(page, lambda: len(found(page)) == len(ITEMS) - 1)  # one item has no title
    field.send_keys(Keys.ARROW_DOWN)
    for key, place in ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_LEFT, 1)):
        page.switch_to.active_element.send_keys(key)
        assert page.switch_to.active_element == found(page)[place]
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(page, lambda: "after 1 events" in status(page))
    for _ in range(2):
        page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert page.switch_to.active_element == field


def test_everything_has_a_name_and_pictures_are_shown(page):
    add(page, "Käse", 1)
    controls = page.find_elements(By.CSS_SELECTOR, "button, input, select, summary")
    assert len(controls) > 10
    assert not [c.get_attribute("outerHTML") for c in controls if c.is_displayed() and not c.accessible_name]
    shown = "return [...document.querySelectorAll('.answers img')].filter(i => i.naturalWidth > 0).length"
    wait(page, lambda: page.execute_script(shown) >= 8)
    assert page.execute_script("return document.documentElement.lang") == "en"


def test_on_a_phone_nothing_is_wider_than_the_screen(page):
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        add(page, "Käse", 1)
        page.find_element(By.CSS_SELECTOR, ".gates summary").click()
        assert page.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        touched = page.find_elements(By.CSS_SELECTOR, "button, select")
        assert not [field for field in touched if 0 < field.size["height"] < 40]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_comes_from_elsewhere_and_nothing_is_in_the_console(page, address):
    add(page, "i9", 1)
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert any("/items/" in name for name in loaded)
    assert all(name.startswith((address, f"blob:{address}")) for name in loaded)
    assert page.get_log("browser") == []
