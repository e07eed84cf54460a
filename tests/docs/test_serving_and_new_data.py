"""Every code block of docs/new_data.md and docs/serving.md runs as written, on small data."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import blocks_of, run_commands, run_python


@pytest.mark.slow
def test_python_blocks_of_new_data(tmp_path: Path) -> None:
    found = blocks_of("docs/new_data.md", "python")
    assert len(found) == 2
    for code in found:
        run_python(code, tmp_path)
    assert (tmp_path / "grown.safetensors").is_file()


@pytest.mark.slow
def test_commands_of_new_data(tmp_path: Path) -> None:
    for week, users in ((1, range(60)), (2, range(20, 100))):
        lines = [f"u{user},s{(user * 7 + n * n) % 34}" for user in users for n in range(9)]
        (tmp_path / f"week{week}.csv").write_text("\n".join(["user,item", *lines]) + "\n")
    (commands,) = blocks_of("docs/new_data.md", "bash")
    run_commands(commands, tmp_path)
    assert (tmp_path / "runs" / "week2" / "test.json").is_file()


@pytest.mark.slow
def test_first_block_and_faiss_block_of_serving(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    first, _, index = blocks_of("docs/serving.md", "python")
    run_python(first, tmp_path)
    assert "s2" in run_python(index, tmp_path)[0]


@pytest.mark.slow
def test_web_service(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the web service needs fastapi")
    pytest.importorskip("httpx", reason="fastapi's TestClient needs httpx")
    first, service, _ = blocks_of("docs/serving.md", "python")
    run_python(first, tmp_path)
    client = """
from fastapi.testclient import TestClient
client = TestClient(app)
found = client.get("/users/bob", params={"k": 3}).json()
assert {item["id"] for item in found} == {"s1", "s3"}
answer = client.get("/users/nobody", params={"k": 2})
assert answer.status_code == 404 and "nobody" in answer.json()["detail"]
assert client.get("/users/bob", params={"k": 99}).status_code == 404
found = client.post("/new", json=["s1"], params={"k": 2}).json()
assert {item["id"] for item in found} == {"s2", "s3"}
assert client.post("/new", json=[], params={"k": 2}).status_code == 422
"""
    run_python(service + client, tmp_path)
