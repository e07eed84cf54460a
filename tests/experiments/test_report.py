"""The report of a run, read in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from browser import browser, is_installed

from lightgcn import Interactions, Recommender, preset
from lightgcn.cli import main as cli
from lightgcn.datasets import Dataset
from lightgcn.experiments.evaluate import evaluate_run
from lightgcn.experiments.run import RunConfig
from lightgcn.experiments.train import train_run

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
report = pytest.importorskip("lightgcn.experiments.report")

needs_browser = pytest.mark.skipif(
    not is_installed(), reason="needs chromium and chromedriver (Debian's chromium-driver)"
)

USERS, ITEMS = 60, 40
EVIL = '<script>document.title = "owned"</script><img src=x onerror="document.title = \'owned\'">&amp;"\'</td>'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    generator = torch.Generator().manual_seed(0)
    index = torch.stack(
        [
            torch.arange(USERS).repeat_interleave(12),
            torch.randint(0, ITEMS, (USERS * 12,), generator=generator),
        ]
    )
    graph = Interactions.from_edge_index(
        index, USERS, ITEMS, item_ids=[f"id-{n}" for n in range(ITEMS)]
    )
    users = {"name": [f"list {n}" for n in range(USERS)]}
    items = {
        "name": [f"song {n}" for n in range(ITEMS)],
        "artist": [f"band {n % 7}" for n in range(ITEMS)],
    }
    users["name"][7], items["name"][3], items["artist"][5] = EVIL, EVIL, "@data@ </script>"
    dataset = Dataset(graph, users, items)
    data = dataset.save(folder / EVIL.replace("/", "∕"))  # a path is data as well
    settings = preset("fast", embedding_dim=8, epochs=4, batch_size=64, eval_every=2)
    config = RunConfig(str(data), dataset.fingerprint(), settings)
    train_run(dataset, config, folder / "run")
    evaluate_run(dataset, folder / "run", baselines=("popularity", "gf_cf"))
    return folder / "run"


def dataset_of(run: Path) -> Dataset:
    return Dataset.load(RunConfig.load(run).data)


@pytest.mark.slow
@needs_browser
def test_the_page_in_a_browser(run: Path) -> None:
    file = report.write_report(dataset_of(run), run, num_users=60, k=5)
    with browser() as page:
        page.open(file)
        assert page.complaints() == []
        text = page.run("return document.body.innerText")
        metrics = json.loads((run / "test.json").read_text())
        for model in ("lightgcn", "popularity", "gf_cf"):
            assert f"{metrics[model]['metrics']['recall@20']:.4f}" in text
        assert "60 of 60 playlists, the first 20 shown" in text and "learning_rate" in text
        assert page.run(
            "return [...document.images].every(i => i.complete && i.naturalWidth > 100)"
        )
        # Every recommendation is the recommender's own.
        recommender = Recommender.load(run / "recommender.safetensors")
        cards = page.run(
            "return [...document.querySelectorAll('article')].map(a => "
            "[a.querySelector('h3').textContent, "
            "[...a.querySelectorAll('li')].map(l => l.textContent)])"
        )
        for title, listed in cards:
            user = int(re.search(r"\((\d+)\)$", title)[1])  # type: ignore[index]
            best = recommender.recommend(user, k=5)
            assert listed == [
                f"{each.columns['name']} by {each.columns['artist']}" for each in best
            ]
        page.type("#search", "list 1")
        found = page.run("return [...document.querySelectorAll('h3')].map(h => h.textContent)")
        assert len(found) == 11 and all("list 1" in title for title in found)
        page.type("#search", " lïst   19 ")
        assert (
            page.run("return document.querySelector('#count').textContent") == "1 of 60 playlists"
        )
        page.type("#search", "no such thing")
        assert (
            page.run("return document.querySelector('#count').textContent") == "0 of 60 playlists"
        )
        assert page.complaints() == []


@pytest.mark.slow
@needs_browser
def test_names_are_text_whatever_they_hold(run: Path) -> None:
    file = report.write_report(dataset_of(run), run, num_users=60, k=10)
    with browser() as page:
        page.open(file)
        page.type("#search", "<script>")
        titles = page.run("return [...document.querySelectorAll('h3')].map(h => h.textContent)")
        assert f"{EVIL} (7)" in titles
        assert page.run("return document.title").startswith("LightGCN on <script>")
        assert page.run("return document.querySelectorAll('script').length") == 2
        assert page.run("return document.querySelectorAll('img').length") == 2
        assert page.complaints() == []


@pytest.mark.slow
@needs_browser
def test_a_window_as_wide_as_a_phone(run: Path) -> None:
    file = report.write_report(dataset_of(run), run)
    with browser(360, 740) as page:
        page.open(file)
        assert page.run("return document.documentElement.scrollWidth") <= 360
        assert page.run("return parseFloat(getComputedStyle(document.body).fontSize)") >= 16
        assert page.run("return document.images[0].clientWidth") > 300


def test_it_needs_nothing_else_and_is_the_same_each_time(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(run), "--users", "10"]) == 0
    file = run / "report.html"
    first = file.read_text()
    assert str(file) in capsys.readouterr().out
    assert not re.findall(r'(?:src|href)="(?!data:)', first) and "http-equiv" in first
    assert cli.main(["report", str(run), "--users", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(file)
    assert first == file.read_text()


def test_metrics_of_an_earlier_model_are_not_shown(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    config, dataset = RunConfig.load(run), dataset_of(run)
    assert "Not evaluated" not in report.write_report(dataset, tmp_path / "run").read_text()
    train_run(
        dataset, config, tmp_path / "run", resume=True
    )  # nothing is left to do, and the model is the same
    assert (tmp_path / "run" / "test.json").is_file()
    longer = replace(config, settings=config.settings.changed(epochs=6))
    train_run(dataset, longer, tmp_path / "run", resume=True)
    assert "Not evaluated yet" in report.write_report(dataset, tmp_path / "run").read_text()


@pytest.mark.slow
def test_training_that_went_on_without_an_end_is_told_and_not_mixed_in(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config, dataset = RunConfig.load(run), dataset_of(run)
    stops = iter([False] * 40 + [True] * 1000)
    longer = replace(config, settings=config.settings.changed(epochs=100))
    assert (
        train_run(
            dataset, longer, folder, resume=True, watch=nullcontext(lambda: next(stops))
        ).ended
        == "interrupted"
    )
    assert len((folder / "history.jsonl").read_text().splitlines()) > 4
    for command in (["report", str(folder)], ["plot", str(folder)]):
        assert cli.main(command) == 0
        assert "the model in" in (said := capsys.readouterr()).err and "of 4 epochs" in said.err
    assert "of 4, " in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("test.json", b'{"lightgcn": {}}', "does not hold the metrics"),
        (
            "test.json",
            b'{"lightgcn": {"metrics": {"a": "x"}, "num_users": 1, "num_links": 1}}',
            "does not hold",
        ),
        ("test.json", b"[1]", "does not hold the metrics"),
        ("trained.json", b"{}", "not the epochs"),
        ("trained.json", b'{"epochs": "x", "best_epoch": 1}', "not the epochs"),
        ("history.jsonl", b"", "has no record of an epoch"),
        ("history.jsonl", b"{\n", "line 1: not valid JSON"),
        ("history.jsonl", b'{"epoch": 2}\n', "line 1: not the record of epoch 1"),
    ],
)
def test_files_of_a_run_that_were_edited_are_named(
    run: Path, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{says}"):
        report.write_report(dataset_of(run), tmp_path / "run")


def test_names_of_nothing_but_spaces_give_way_to_ids(run: Path) -> None:
    recommender = Recommender.load(run / "recommender.safetensors")
    recommender.item_columns["name"] = [" \n"] * ITEMS
    recommender.user_columns["name"] = ["  "] * USERS
    rows = report.sample_recommendations(recommender, 3, 2)
    assert all(row["name"] == "" for row in rows)
    assert all(
        len(names) == 1 and names[0].startswith("id-") for row in rows for names in row["best"]
    )


def test_before_evaluation_and_of_other_data(run: Path, tmp_path: Path) -> None:
    dataset = dataset_of(run)
    test = (run / "test.json").read_bytes()
    (run / "test.json").unlink()
    try:
        assert (
            "Not evaluated yet"
            in report.write_report(dataset, run, tmp_path / "r.html").read_text()
        )
    finally:
        (run / "test.json").write_bytes(test)
    other = dataset.reindex(torch.arange(USERS - 1), torch.arange(ITEMS))
    with pytest.raises(ValueError, match="the interactions differ"):
        report.write_report(other, run)
    with pytest.raises(ValueError, match="num_users must be an integer of at least 1, got 0"):
        report.write_report(dataset, run, num_users=0)
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        report.write_report(dataset, tmp_path)
