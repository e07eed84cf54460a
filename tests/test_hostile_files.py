"""Files by other hands: no code of theirs runs, and what they claim is checked before it is
believed."""

from __future__ import annotations

import ast
import json
import os
import pickle
import resource
import struct
from pathlib import Path

import pytest
import torch

import lightgcn
from lightgcn import Recommender, preset
from lightgcn.cli import main as cli
from lightgcn.cli.console import complain, say
from lightgcn.datasets import Dataset, open_dataset, read_mpd
from lightgcn.nn.model_io import load_model

PACKAGE = Path(lightgcn.__file__).parent
OPTIONS = ["--epochs", "1", "--batch-size", "512"]


def test_nothing_in_the_package_can_unpickle_or_run_what_it_reads() -> None:
    """No call of pickle, marshal, eval, exec, torch.load or numpy.load, and no shell."""
    banned = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml"}
    calls = {"eval", "exec", "compile", "__import__"}
    methods = {
        ("torch", "load"),
        ("np", "load"),
        ("numpy", "load"),
        ("os", "system"),
        ("np", "fromfile"),
    }
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not banned & {name.name.split(".")[0] for name in node.names}, file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned, file
            elif isinstance(node, ast.Call):
                function = node.func
                if isinstance(function, ast.Name):
                    assert function.id not in calls, (file, node.lineno)
                elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                    assert (function.value.id, function.attr) not in methods, (file, node.lineno)
                shell = [word for word in node.keywords if word.arg == "shell"]
                assert not shell, (file, node.lineno)


class Bomb:
    """What leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "name", ["dataset.safetensors", "recommender.safetensors", "model.safetensors", "run.json"]
)
def test_a_pickle_in_place_of_a_file_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    for data in (pickle.dumps(Bomb(mark)), None):
        if data is None:
            torch.save({"x": Bomb(mark)}, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(data)
        for read in (Dataset.load, open_dataset, Recommender.load, load_model, preset):
            with pytest.raises((ValueError, FileNotFoundError)):
                read(tmp_path if read in (Dataset.load, open_dataset) else tmp_path / name)  # type: ignore[operator]
        assert cli.main(["evaluate", str(tmp_path)]) == 2
        assert cli.main(["recommend", str(tmp_path), "--user", "1"]) == 2
    assert not mark.exists()


@pytest.fixture(scope="module")
def run(slices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    read_mpd(slices).save(folder / "prepared")
    assert cli.main(["train", str(folder / "prepared"), str(folder / "run"), *OPTIONS]) == 0
    return folder / "run"


@pytest.mark.parametrize("shape", [[2**40, 64], [2**62, 2], [2**31, 2**31]])
def test_sizes_that_a_header_claims_are_not_allocated(
    run: Path, tmp_path: Path, shape: list[int]
) -> None:
    data = (run / "recommender.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["users"]["shape"] = shape
    for end in (header["users"]["data_offsets"][1], 2**62):
        header["users"]["data_offsets"][1] = end
        text = json.dumps(header).encode()
        path = tmp_path / "recommender.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(
            ValueError, match=r"recommender\.safetensors: not a readable lightgcn file"
        ):
            Recommender.load(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_a_header_length_of_exabytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(ValueError, match="not a readable lightgcn file"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../etc", "\x00", "http://example.com/data", ""]
)
def test_a_path_in_a_run_is_only_read_as_data_that_must_be_the_runs(
    run: Path, tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """run.json says where the data is: the one path that is followed, to read what has the run's
    own fingerprint."""
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(config | {"data": path}))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_names_on_the_terminal_cannot_command_it(
    slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An escape sequence in a track's name is shown as text, and not obeyed, by whatever shows
    it."""
    dataset = read_mpd(slices)
    dataset.items["name"][0] = "\x1b[2J\x1b]0;owned\x07name\x9b\u202e"
    dataset.save(tmp_path / "prepared")
    assert cli.main(["train", str(tmp_path / "prepared"), str(tmp_path / "run"), *OPTIONS]) == 0
    item = str(dataset.interactions.item_ids[0])  # type: ignore[index]
    holders = set(dataset.interactions.users[dataset.interactions.items == 0].tolist())
    user = str(next(user for user in range(300) if user not in holders))
    command = ["recommend", str(tmp_path / "run"), "-k", "398"]
    capsys.readouterr()
    for asked in (["--similar", item], ["--items", item], ["--user", user]):
        assert cli.main([*command, *asked]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x07" not in said
    assert cli.main([*command, "--user", user, "--json"]) == 0
    said = capsys.readouterr().out
    assert not set(said) & {"\x1b", "\x07", "\x9b", "\u202e"} and "\\u009b" in said


def test_emoji_and_other_scripts_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "👩‍🚀 ❤️ déjà\u00a0vu می‌خواهم 日本 a\u00adb"
    say(text + "\u202e\x9b")
    complain(text)
    out, err = capsys.readouterr()
    assert out == text + "��\n" and err == f"lightgcn: {text}\n"
