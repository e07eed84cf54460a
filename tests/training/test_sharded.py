"""Several processes, started by torchrun as a user would, against one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import distributed_job as job
import pytest
import torch

from lightgcn import LightGCN, RankingConfig, Recommender, in_batch_softmax_loss
from lightgcn.cli import console
from lightgcn.core import process_group as process_group_module
from lightgcn.core.process_group import (
    SINGLE_PROCESS,
    ProcessGroup,
    ProcessLostError,
    _rendezvous_name,
    process_group,
)
from lightgcn.core.tensor_file import load_shared, load_tensors
from lightgcn.datasets import write_synthetic_mpd
from lightgcn.nn.losses import in_batch_softmax_part
from lightgcn.nn.model_io import load_model, save_model
from lightgcn.training.batches import _part
from lightgcn.training.checkpoint import read_history
from lightgcn.training.sharded import ShardedLightGCN

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"
)
JOB = Path(job.__file__)


def torchrun(count, *command, restarts=0, **options):
    """Start as many processes; ``command`` is a script or a module with its arguments."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    launcher += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    launcher += ["--max-restarts", str(restarts), *map(str, command)]
    return subprocess.Popen(
        launcher,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        **options,
    )


def ended(process, seconds=120):
    said = process.communicate(timeout=seconds)[0]
    return process.returncode, said


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of every case."""
    folder = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = {name: job.train(name, folder) for name in job.CASES}
        job.stop(folder / "straight", at=None)
        job.stop(folder / "run")
    torch.set_num_threads(threads)
    return folder, found


@pytest.fixture(scope="module", params=[2, 4])
def together(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"together{request.param}")
    code, said = ended(torchrun(request.param, JOB, "cases", folder))
    assert code == 0, said
    return request.param, folder, json.loads((folder / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", job.CASES)
def test_several_processes_train_as_one_does(alone, together, name):
    count, folder, found = together
    expected, got = alone[1][name], found[name]
    assert got["best_epoch"] == expected["best_epoch"] and got["users"] == expected["users"] > 0
    assert len(got["history"]) == len(expected["history"])
    near = (
        5e-3 if "mixed" in name else 1e-5
    )  # half-precision numbers differ where sums are added up otherwise
    for one, other in zip(got["history"], expected["history"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=near)
        assert one.get("val", {}) == pytest.approx(other.get("val", {}), rel=10 * near)
    for metrics in ("tested", "by parts"):
        assert got[metrics] == pytest.approx(expected[metrics], rel=10 * near)
    ours, theirs = (load_model(place / f"{name}.safetensors") for place in (folder, alone[0]))
    torch.testing.assert_close(ours.embedding, theirs.embedding, rtol=10 * near, atol=near)
    weights = [
        [float(weight) for weight in torch.as_tensor(model.alpha).detach()]
        for model in (ours, theirs)
    ]
    assert weights[0] == pytest.approx(weights[1], rel=1e-5)
    # It did train: what it began with is far away.
    assert not torch.allclose(
        ours.embedding,
        job.CASES[name].new_model(job.graph()).embedding,
        atol=1e-4,
    )
    assert got["columns"] == job.WIDTH // count + (job.WIDTH % count > 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", job.CASES)
def test_no_more_is_sent_than_the_rows_of_the_batch(together, name):
    count, _, found = together
    config = job.CASES[name].train
    layers = job.CASES[name].model.num_layers
    links = {"softmax": 1, "bpr": 1, "bce": 2}[config.loss]
    samples = int(0.8 * 2000) if config.loss != "bce" else int(0.2 * 0.8 * 2000) * links
    steps = -(-samples // (config.batch_size or samples)) * config.epochs
    rows = samples * (2 + (config.num_negatives if config.loss == "bpr" else 0)) * config.epochs
    share = (count - 1) / count
    # The gradient of the layer weights, the loss, the penalty, whether to stop; and an evaluation
    # at the end.
    scalars = steps * (layers + 4) * 8 + 64 * config.epochs
    assert 0 < found[name]["sent"] <= 2 * rows * job.WIDTH * 4 * share + scalars
    if config.loss != "softmax":  # of a pair the score alone
        assert found[name]["sent"] <= 2 * rows * 4 * share + scalars + job.graph().num_edges * 8


@pytest.mark.slow
def test_processes_with_other_settings_are_refused(together):
    assert re.search(
        r"process 0 of \d: settings must be the same in all processes",
        together[2]["differ"],
    )


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_any_number_of_processes(alone, together, tmp_path):
    count, folder, _ = together
    straight = load_model(alone[0] / "straight" / "model.safetensors")
    ours, metadata = load_tensors(folder / "run" / "checkpoint.safetensors", "checkpoint")
    theirs, same = load_tensors(alone[0] / "run" / "checkpoint.safetensors", "checkpoint")
    assert (
        ours.keys() == theirs.keys()
        and metadata["step"] == same["step"]
        and metadata["data"] == same["data"]
    )
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        job.stop(folder / "run", at=None, resume=True)  # several saved, one goes on
    torch.testing.assert_close(
        load_model(folder / "run" / "model.safetensors").embedding,
        straight.embedding,
        rtol=1e-4,
        atol=1e-5,
    )
    if count > 2:
        return  # what follows is the same for any count, and starting processes takes seconds
    kept = tmp_path / "run"
    kept.mkdir()
    for name in ("checkpoint.safetensors", "history.jsonl"):
        (kept / name).write_bytes((alone[0] / "run" / name).read_bytes())
    code, said = ended(torchrun(count, JOB, "resume", kept))  # one saved, several go on
    assert code == 0, said
    torch.testing.assert_close(
        load_model(kept / "model.safetensors").embedding, straight.embedding, rtol=1e-4, atol=1e-5
    )


def test_the_parts_of_a_softmax_batch_add_up_to_it():
    for size, block, count in product((1, 7, 250, 1001), (1, 96, 130, 2048), (1, 2, 3, 8)):
        if block == 1 and size > 250:  # a thousand blocks of one row
            continue
        generator = torch.Generator().manual_seed(size)
        users, items = (
            torch.randn(size, 6, generator=generator, dtype=torch.float64).requires_grad_()
            for _ in range(2)
        )
        settings = {"temperature": 0.2, "negative_weight": 0.9, "block_size": block}
        expected = in_batch_softmax_loss(users, items, **settings)
        gradient = torch.autograd.grad(expected, (users, items))
        total = torch.zeros((), dtype=torch.float64)
        covered = []
        for rank in range(count):
            own, near = _part(size, block, rank, count)
            covered += range(size)[own]
            inside = near.start <= own.start <= own.stop <= near.stop
            assert (near.start % block == 0 and inside) or own.start == own.stop
            rows = torch.cat([users[own], items[near]])
            total = total + in_batch_softmax_part(
                rows, own.stop - own.start, own.start - near.start, size, **settings
            )
        assert covered == list(range(size)), (size, block, count)
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(torch.autograd.grad(total, (users, items)), gradient)


def test_columns_are_shared_out_evenly_and_each_process_has_one():
    processes = ProcessGroup()
    processes.size = 4
    assert processes.column_counts(14) == [4, 4, 3, 3]
    starts = []
    for processes.rank in range(4):
        starts.append((processes.columns(14).start, processes.columns(14).stop))
    assert starts == [(0, 4), (4, 8), (8, 11), (11, 14)]
    with pytest.raises(ValueError, match="embedding_dim=3"):
        processes.column_counts(3)


def test_a_process_without_others_is_alone():
    with process_group() as processes:
        assert processes is SINGLE_PROCESS
    whole = LightGCN(5, 4, 6, alpha="learnable")
    shard = ShardedLightGCN.from_whole(whole, SINGLE_PROCESS)
    assert torch.equal(shard.embedding, whole.embedding) and isinstance(
        shard.alpha, torch.nn.Parameter
    )
    with torch.no_grad():
        shard.embedding.add_(1)  # which is not the whole model's
    assert not torch.equal(shard.embedding, whole.embedding)
    with torch.no_grad():
        shard.embedding.copy_(whole.embedding)
    again = shard.whole()
    assert torch.equal(again.embedding, whole.embedding) and torch.equal(again.alpha, whole.alpha)
    with pytest.raises(ValueError, match="process 0"):
        ShardedLightGCN.from_whole(None, SINGLE_PROCESS)


def test_a_part_has_the_settings_of_the_whole_or_is_refused():
    for ranking in (RankingConfig(0.1, 7, 0.3, "ease", 9, 0.4, 5, 0.2, 1.5, 0.6), RankingConfig()):
        for normalization in (None, "mean", (0.25, 0.75)):
            whole = LightGCN(5, 4, 6, normalization=normalization)
            whole.ranking = ranking
            shard = ShardedLightGCN.from_whole(whole, SINGLE_PROCESS)
            for each in (shard, shard.whole()):
                assert (each.ranking, each.normalization) == (ranking, whole.normalization)
    with pytest.raises(ValueError, match="from_whole"):
        shard.reset_parameters("xavier", seed=1)
    assert torch.equal(shard.embedding, whole.embedding)
    whole.normalization = "custom"
    for refused, named in ((whole, "custom"), (LightGCN(5, 4, 6).double(), "float64")):
        with pytest.raises(ValueError, match=named):
            ShardedLightGCN.from_whole(refused, SINGLE_PROCESS)


def test_a_part_of_a_model_is_not_taken_for_the_whole(tmp_path):
    part = LightGCN(job.USERS, job.ITEMS, 6)
    part.embedding = torch.nn.Parameter(part.embedding.detach()[:, :3].clone())
    for refused in (
        lambda: save_model(tmp_path / "model", part),
        lambda: Recommender(part, job.graph()),
    ):
        with pytest.raises(ValueError, match=r"model\.whole"):
            refused()
    assert not list(tmp_path.iterdir())


def test_a_part_is_not_taken_from_a_table_of_another_width(alone):
    """As process 1 of 2, of a model that is half as wide: its columns are all there."""
    path = alone[0] / "run" / "checkpoint.safetensors"
    processes = ProcessGroup()
    processes.rank, processes.size = 1, 2
    tensors, _ = load_shared(path, "checkpoint", processes, job.WIDTH)
    whole = load_tensors(path, "checkpoint")[0]
    assert tensors.keys() == whole.keys()
    torch.testing.assert_close(
        tensors["model.embedding"], whole["model.embedding"][:, job.WIDTH // 2 :]
    )
    found = rf"checkpoint\.safetensors.*\({job.USERS + job.ITEMS}, {job.WIDTH}\)"
    for width in (job.WIDTH // 2, 2 * job.WIDTH):
        with pytest.raises(ValueError, match=f"{found}.*{width}"):
            load_shared(path, "checkpoint", processes, width)


@pytest.fixture
def launched(monkeypatch):
    """As process 1 of 3 on a machine."""
    for name, value in {"RANK": 1, "WORLD_SIZE": 3, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    return monkeypatch


def test_every_process_has_a_gpu_or_all_say_that_there_are_too_few(launched):
    launched.setattr(torch.cuda, "is_available", lambda: True)
    launched.setattr(torch.cuda, "device_count", lambda: 3)
    assert console.chosen_device("auto") == console.chosen_device("cuda") == torch.device("cuda", 1)
    launched.setattr(torch.cuda, "device_count", lambda: 2)
    wanted = "process 1 of 3.*2 CUDA devices.*--nproc-per-node 2"
    with pytest.raises(ValueError, match=wanted):
        console.chosen_device("auto")
    with pytest.raises(ValueError, match=wanted), process_group("cuda"):
        pass
    assert console.chosen_device("cpu") == torch.device("cpu")


class Store(dict):
    """What several threads say to each other, as processes do in torchrun's store; it forgets
    nothing."""

    def set(self, key, value):
        self[key] = value.encode()

    def check(self, keys):
        return all(key in self for key in keys)


def test_processes_agree_on_a_name_that_those_before_them_did_not_have(launched):
    store, names = Store(), []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            # The first process is the last one to come: the others find what is left of the attempt
            # before.
            later = [pool.submit(_rendezvous_name, store, rank, 3) for rank in (2, 1)]
            time.sleep(0.1)
            assert not any(future.done() for future in later)
            name = _rendezvous_name(store, 0, 3)
            assert [future.result(timeout=10) for future in later] == [name, name]
        names.append(name)
    assert len(set(names)) == 3
    launched.setattr(process_group_module, "JOIN_TIMEOUT", 0.1)
    for rank in (0, 1):
        with pytest.raises(ProcessLostError, match="process 1 of 3: "):
            _rendezvous_name(Store(), rank, 3)


def test_what_is_to_be_typed_again_names_torchrun(launched):
    assert (
        console.command_line(["train", "a b", "run"])
        == "torchrun --nproc-per-node 3 -m lightgcn train 'a b' run"
    )
    launched.delenv("TORCHELASTIC_RUN_ID")
    assert console.command_line(["train", "run"]) == "lightgcn train run"


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slices")
    write_synthetic_mpd(folder, num_playlists=400, num_tracks=300, mean_length=20)
    return folder


def lightgcn(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "lightgcn", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_command_gives_the_same_run_on_two_processes(slices, tmp_path):
    settings = ["--epochs", "4", "--batch-size", "500", "--embedding-dim", "16"]
    one = lightgcn("train", slices, tmp_path / "one", *settings, "--json")
    code, said = ended(torchrun(2, "-m", "lightgcn", "train", slices, tmp_path / "two", *settings))
    assert code == 0, said
    assert said.count("saved to") == 1 and said.count("epoch    4") == 1
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == files
    names = ("one", "two")
    scores = [
        lightgcn("evaluate", tmp_path / name, "--json")["lightgcn"]["metrics"] for name in names
    ]
    for each in scores:  # its scale is that of the ranking, which rounding may decide
        del each["loss"]
    assert scores[0] == pytest.approx(scores[1], rel=2e-2) and one["epochs"] == 4
    # A run that is there already is refused, also by those that torchrun starts again.
    before = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    longer = ["--epochs", "6", *settings[2:]]
    code, said = ended(
        torchrun(2, "-m", "lightgcn", "train", slices, tmp_path / "two", *longer, restarts=1)
    )
    assert code != 0 and said.count("holds a run already") >= 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == before
    code, said = ended(torchrun(2, "-m", "lightgcn", "evaluate", tmp_path / "two"))
    assert code != 0 and re.search(
        "process [01] of 2: .*only train runs on several processes", said
    )


def runs(process):
    """Return whether a process has not ended, be it that nobody has asked how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def lose_one(job_, history, how, epochs=5):
    """Send a signal to one of the processes once there are some epochs."""
    deadline = time.monotonic() + 60
    while not (history.is_file() and history.read_bytes().count(b"\n") >= epochs):
        assert time.monotonic() < deadline and job_.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{job_.pid}/task/{job_.pid}/children").read_text().split()
    workers = [
        child for child in children if b"command" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert len(workers) in (2, 3)
    os.kill(int(workers[-1]), how)
    return workers


@pytest.mark.slow
def test_a_job_that_lost_a_process_is_started_again_and_goes_on(slices, tmp_path):
    settings = [
        "--epochs",
        "20",
        "--patience",
        "20",
        "--batch-size",
        "500",
        "--set",
        "precision=float32",
        "--set",
        "eval_every=1",
    ]
    run, straight = tmp_path / "run", tmp_path / "straight"
    job_ = torchrun(2, JOB, "command", "train", slices, run, *settings, restarts=1)
    try:
        lose_one(job_, run / "history.jsonl", signal.SIGKILL, epochs=4)
        code, said = ended(job_)
    finally:
        if job_.poll() is None:
            job_.kill()
    assert code == 0, said
    assert re.search(
        "process 0 of 2: (another process is gone or does not answer|terminated by torchrun)", said
    )
    records = read_history(run)
    assert [record["epoch"] for record in records] == list(range(1, 21))
    assert said.count("saved to") == 1 and "holds a run already" not in said
    lightgcn("train", slices, straight, *settings, "--json")
    for one, other in zip(records, read_history(straight), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    # Begun anew it would have been said, and counted, again.
    assert len(re.findall(r"^epoch +1 ", said, re.MULTILINE)) == 1


@pytest.mark.slow
def test_processes_say_that_another_one_hangs(slices, tmp_path):
    settings = ["--epochs", "100000", "--patience", "100000", "--batch-size", "200"]
    job_ = torchrun(
        3, JOB, "command", "train", slices, tmp_path / "run", *settings, start_new_session=True
    )
    try:
        workers = lose_one(job_, tmp_path / "run" / "history.jsonl", signal.SIGSTOP)
        began = time.monotonic()
        while any(map(runs, workers[:2])):
            assert time.monotonic() < began + 40
            time.sleep(0.2)
        assert time.monotonic() > began + 2  # not before the time was up
        assert runs(workers[-1])
        os.kill(int(workers[-1]), signal.SIGKILL)  # for which torchrun would wait half a minute
        code, said = ended(job_)
    finally:
        if job_.poll() is None:
            os.killpg(job_.pid, signal.SIGKILL)
    assert code != 0
    for rank in (0, 1):
        assert re.search(
            f"process {rank} of 3: (another process is gone or does not answer|terminated by torchrun)",
            said,
        )
