"""The documentation: every snippet runs, prints what its page shows, and the reference knows all there is."""

from __future__ import annotations

import ast
import ctypes
import inspect
import re
import tomllib
from contextlib import ExitStack
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from confluent_kafka import KafkaError, Producer
from ruamel.yaml import YAML

import wd_di
from tests.pages import (
    PLACEHOLDER,
    ROOT,
    Page,
    blocks,
    dead_links,
    files,
    in_folder,
    installed,
    needed,
    shown,
    shows,
    too_wide,
)
from wd_di import FencedError, KafkaSettings, PoolSettings, ProducerPool, SettingsWarning, errors, events, testing
from wd_di._settings.names import dotted
from wd_di.testing import _mock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wd_di.testing import Cluster, MockKafka

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.is_relative_to(DOCS / "changes"))
HAS_SNIPPETS = [path for path in PAGES if blocks(path, "python") and path.name != "tutorial.md"]
PACKAGE = Path(wd_di.__file__).parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = {each["containers"][0]: each["layers"] for each in CONTRACTS if each["type"] == "layers"}
START_A_KAFKA = "python -m wd_di.testing --port 9092"
TOO_LONG_TO_RUN = 120


def _short(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


@pytest.fixture
def folder(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files in a folder from which they can be imported."""
    with in_folder(page, tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def folder_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Work in the folder of a guide's files."""
    with ExitStack() as entered:
        yield lambda name: entered.enter_context(in_folder(DOCS / "howto" / f"{name}.md", tmp_path, monkeypatch))


@pytest.mark.timeout(TOO_LONG_TO_RUN)
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", HAS_SNIPPETS, ids=_short)
def test_snippets_print_what_the_page_shows(
    page: Path, mock_kafka: MockKafka, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block of a page runs, in its order, and prints exactly the block of text below it."""
    _forget_topic(mock_kafka, "oders")
    running = Page(page, mock_kafka, capsys)

    running.run()

    assert running.ran


@pytest.mark.parametrize("page", [DOCS / "howto" / "testing.md"], ids=_short)
def test_the_test_on_a_real_broker_passes(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    """The guide's test of hidden records passes on a real broker, where alone it can."""
    names: dict[str, object] = {}
    exec(compile(files(page)["test_real.py"], str(folder / "test_real.py"), "exec"), names)  # noqa: S102  (our own page)

    test = names["test_aborted_records_are_hidden"]
    assert inspect.isfunction(test)
    test(request.getfixturevalue("local_kafka"))


def test_a_pods_environment_fills_the_settings(folder_of: Callable[[str], Path]) -> None:
    """What the guide's StatefulSet sets reaches the pool's settings, and its grace period is longer than the close."""
    folder_of("kubernetes")
    [pod, _] = [YAML(typ="safe").load(text) for text in blocks(DOCS / "howto" / "kubernetes.md", "yaml")]
    spec = pod["spec"]["template"]["spec"]
    [container] = spec["containers"]
    with pytest.MonkeyPatch.context() as environment:
        for number, variable in enumerate(container["env"]):
            environment.setenv(variable["name"], str(number))
        orders = import_module("shop.containers").Settings().orders

    assert ("0", "1", "2") == (
        orders.instance,
        orders.kafka.bootstrap_servers,
        orders.kafka.sasl_password.get_secret_value(),
    )
    assert orders.close_timeout_ms < spec["terminationGracePeriodSeconds"] * 1000
    assert 'Path("ready")' in (Path("shop") / "__main__.py").read_text()
    assert ["test", "-e", "ready"] == container["readinessProbe"]["exec"]["command"]


def test_the_error_of_the_first_replica_is_real(local_kafka: Cluster) -> None:
    """The page shows what a second owner of the same id does to the first one's next commit."""
    servers = local_kafka.bootstrap_servers
    settings = PoolSettings(size=1, transactional_id="shop-{index}", kafka=KafkaSettings(bootstrap_servers=servers))
    [shown] = [text for text in blocks(DOCS / "traps.md", "text") if "FencedError" in text]
    with pytest.warns(SettingsWarning, match="a second replica"):
        pool = ProducerPool(settings, name="orders")

    def commit_too_late() -> None:
        with pool.transaction() as tx:
            tx.produce_sync(local_kafka.create_topic("replicas"), "tea")
            Producer({"bootstrap.servers": servers, "transactional.id": "shop-0"}).init_transactions(30)

    with pool, pytest.raises(FencedError) as caught:
        commit_too_late()

    assert shows(shown, f"wd_di.errors.FencedError: {caught.value}")


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_code_fits_its_column(page: Path) -> None:
    """No line of code or output is cut off at the right edge of the site."""
    assert [] == too_wide(page)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_name_what_they_need(page: Path) -> None:
    """Whoever follows a page alone is told what to install, and how to get the Kafka that it talks to."""
    assert set() == needed(page) - installed(page)
    assert START_A_KAFKA in page.read_text() or PLACEHOLDER not in shown(page)


def test_what_a_page_needs_is_found(tmp_path: Path) -> None:
    """What is imported or run, and neither Python's own nor wd_di's nor the page's."""
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n# shop/app.py\nimport os\nimport trio\n\nfrom shop import x\nfrom wd_di import inject\n```\n"
        "```console\npython -m shop\npython -m pytest -o asyncio_mode=auto\n```\n"
        "```shell\npip install fastapi 'wd-di-kafka[local-kafka]'  # or\npip install httpx==0.28\n```\n"
    )

    assert {"trio", "pytest", "pytest-asyncio"} == needed(page)
    assert {"fastapi", "wd-di-kafka", "httpx"} == installed(page) - {"or"}


def test_wide_lines_are_found(tmp_path: Path) -> None:
    """A line counts without the indentation of its block, and only in code that is shown as such."""
    page = tmp_path / "page.md"
    page.write_text(f"{'x' * 89}\n\n  ```text\n  {'y' * 88}\n  {'z' * 89}\n  ```\n\n```{{eval-rst}}\n{'x' * 89}\n```\n")

    assert ["z" * 89] == too_wide(page)


def test_wrapped_output_is_compared() -> None:
    """A page may go on with a long line in the next one, indented by four spaces; nothing else may differ."""
    assert shows("Error: no producer\n    free; … more", "Error: no producer free; 3 more")
    assert not shows("Error: no producer\n    free", "Error: no producer is free")
    assert not shows("Error: no producer\nfree", "Error: no producer free")
    assert not shows("Error: no producer\n  free", "Error: no producer free")


def test_fragments_are_of_a_known_type() -> None:
    """Each fragment of the changelog is named so that towncrier takes it up."""
    names = [path.name for path in (DOCS / "changes").iterdir()]
    types = "added|changed|deprecated|removed|fixed|security"

    assert [] == [name for name in names if not re.fullmatch(rf"(\+[a-z-]+|\d+)\.({types})\.md", name)]


def test_the_changelog_says_what_the_fragments_say() -> None:
    """What isn't released stands in the file, too, word for word; a new fragment may wait for ``make changelog``."""
    fragments = [" ".join(path.read_text().split()) for path in (DOCS / "changes").glob("*.md")]
    _, _, below = (ROOT / "CHANGELOG.md").read_text().partition("<!-- towncrier release notes start -->\n")
    unreleased = "".join(re.findall(r"^## (?:.+ - u|U)nreleased\n(.*?)(?=^## |\Z)", below, re.MULTILINE | re.DOTALL))
    entries = [" ".join(entry.split()) for entry in re.split(r"^- |^### .+$", unreleased, flags=re.MULTILINE)]

    assert set() == {*filter(None, entries)} - {*fragments}
    assert f"## [{wd_di.__version__}]" in below


@pytest.mark.parametrize("page", PAGES, ids=_short)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link of a page to another one leads to a file, and to a heading if it names one."""
    assert [] == dead_links(page)


def test_every_page_is_in_the_index() -> None:
    """No page is forgotten: all are reached from the index."""
    listed = set(re.findall(r"^[\w/-]+$", (DOCS / "index.md").read_text(), re.MULTILINE))

    assert set() == {_short(page).removesuffix(".md") for page in PAGES} - listed - {"index"}


# -- the reference ---------------------------------------------------------------------------------


def test_every_error_has_its_cause_and_remedy() -> None:
    """Each class of wd_di.errors has a section with a cause and a remedy, and no section is of a class that isn't."""
    page = (DOCS / "reference" / "errors.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL))
    classes = {name for name, each in vars(errors).items() if _is_ours(each, BaseException)}

    assert classes == set(sections)
    assert [] == [name for name, text in sections.items() if not ("*Cause.*" in text and "*Remedy.*" in text)]


def test_the_tree_of_errors_is_the_real_one() -> None:
    """The page's tree has every class below its base."""
    page = (DOCS / "reference" / "errors.md").read_text()
    parents: dict[int, str] = {}
    shown = {}
    for indent, name in re.findall(r"^([ │├└─]*)(\w+Error)\b", page.split("```")[1], re.MULTILINE):
        depth = len(indent) // 4
        parents[depth] = name
        shown[name] = parents.get(depth - 1, "Exception")

    classes = (each for each in vars(errors).values() if _is_ours(each, errors.WdDiError))
    assert {each.__name__: each.__bases__[0].__name__ for each in classes} == shown


def test_every_event_has_its_row() -> None:
    """Each event's row has its class, its name and all its fields."""
    page = (DOCS / "reference" / "events.md").read_text()
    rows = {row[1]: row for row in re.finditer(r"^\| `(\w+)` `([\w.]+)` (.*)$", page, re.MULTILINE)}

    assert {each.__name__: each.name for each in events.EVENTS} == {name: row[2] for name, row in rows.items()}
    assert [] == [
        (each.__name__, field.name)
        for each in events.EVENTS
        for field in fields(each)
        if f"`{field.name}`" not in rows[each.__name__][3]
    ]


def test_every_setting_has_its_row() -> None:
    """The tables list every field of PoolSettings, in order and with its default, and every one of KafkaSettings."""
    page = (DOCS / "reference" / "settings.md").read_text()
    pool = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \| .+ \|$", page, re.MULTILINE)
    kafka = re.findall(r"^\| `([a-z.]+)` \| [^|]+ \| [^|]*\|$", page, re.MULTILINE)

    assert [(name, repr(field.default)) for name, field in PoolSettings.model_fields.items()] == pool
    assert [dotted(name) for name in KafkaSettings.model_fields] == kafka


def test_every_public_name_has_its_entry() -> None:
    """What is public is on the API's page, or on those of errors and events."""
    entries = set(
        re.findall(r"(?:class|function|exception|data):: (wd_di\.[\w.]+)", (DOCS / "reference" / "api.md").read_text())
    )
    elsewhere = {name for module in (errors, events) for name in vars(module)} - {"Observer", "Subscription"}
    public = {f"wd_di.{name}" for name in set(wd_di.__all__) - elsewhere}
    tools = {f"wd_di.testing.{name}" for name in testing.__all__}

    assert public | tools == entries - {"wd_di.AbortTransaction"}


# -- how it works ----------------------------------------------------------------------------------


def test_the_map_has_every_room() -> None:
    """The map lists what is in the package, in the order in which import-linter lets it import, by its own question."""
    assert _rooms("wd_di") == _table("## The map")
    assert {name for name, _ in _rooms("wd_di")} == _inside("wd_di")


@pytest.mark.parametrize("wing", [wing for wing in LAYERS if wing != "wd_di"])
def test_the_map_has_every_file_of_a_wing(wing: str) -> None:
    """So is each wing's table, with the files of its folder."""
    assert _rooms(wing) == _table(f"#### `{wing.removeprefix('wd_di.')}`")
    assert {name for name, _ in _rooms(wing)} == _inside(wing)


def test_the_picture_of_the_map_is_the_real_one() -> None:
    """Rooms that are side by side there are so for import-linter, too."""
    rows = (DOCS / "pictures" / "map.txt").read_text().partition("\n---\n")[0].splitlines()
    shown = [names for row in rows if (names := re.findall(r"`(\w+)`", row))]

    assert [layer.split(" | ") for layer in LAYERS["wd_di"]] == shown


def test_the_reasons_are_about_the_same_folders() -> None:
    """The table of the page of reasons has the folders of the map."""
    folders = [(name, question) for name, question in _rooms("wd_di") if (PACKAGE / name).is_dir()]

    assert folders == _table("## The house", "why.md")


def test_what_a_lost_transaction_raises_is_an_error() -> None:
    """Each error and each retirement that the ways out name is one."""
    page = (DOCS / "how-it-works.md").read_text()
    table = page.partition("| way out |")[2].partition("\n\n")[0]
    raised = set(re.findall(r"`(\w+Error)`", table))
    reasons = set(re.findall(r"retired[^|]*: \*([^*]+)\*", table))

    assert set() == raised - set(vars(errors))
    assert "commit in doubt" in reasons
    assert set() == reasons - {*get_args(events.RetirementReason)}


def test_each_failure_has_tests_that_prove_it() -> None:
    """Each line of the page of promises names files of tests, and each of them is there."""
    tables = re.findall(
        r"^\|.*\| proof \|\n\|[ |-]+\|\n((?:\|.*\n)+)", (DOCS / "reliability.md").read_text(), re.MULTILINE
    )
    rows = [row.strip("| ").split(" | ") for table in tables for row in table.splitlines()]
    proofs = [re.findall(r"`(tests/[\w/]+\.py)`", row[-1]) for row in rows]

    assert len(tables) >= 5
    assert all(proofs)
    assert [] == [path for paths in proofs for path in paths if not (ROOT / path).is_file()]


def _rooms(container: str) -> list[tuple[str, str]]:
    """The rooms of a container from the top down, each with the first line of its docstring."""
    names = [name for layer in LAYERS[container] for name in layer.split(" | ")]
    return [(name, _question(PACKAGE.parent / Path(*container.split(".")) / name)) for name in names]


def _question(path: Path) -> str:
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    first, _, _ = (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n\n")
    return " ".join(first.split()).replace("``", "`").removesuffix(".")


def _inside(container: str) -> set[str]:
    folder = PACKAGE.parent / Path(*container.split("."))
    return {path.parent.name for path in folder.glob("*/__init__.py")} | {
        path.stem for path in folder.glob("*.py") if path.stem != "__init__"
    }


def _table(heading: str, page: str = "how-it-works.md") -> list[tuple[str, str]]:
    """The rows of the first table below a heading."""
    _, _, below = (DOCS / page).read_text().partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    return re.findall(r"^\| `(\w+)` \| (.+) \|$", table[0], re.MULTILINE) if table else []


def _is_ours(each: object, base: type[BaseException]) -> bool:
    return isinstance(each, type) and issubclass(each, base) and each.__module__ == errors.__name__


def _forget_topic(kafka: MockKafka, topic: str) -> None:
    """Let the mock say of a topic that it doesn't know it; otherwise it makes every one on first use."""
    set_error = _mock._librdkafka().rd_kafka_mock_topic_set_error
    set_error.restype, set_error.argtypes = None, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
    set_error(kafka._cluster(), topic.encode(), KafkaError.UNKNOWN_TOPIC_OR_PART)
