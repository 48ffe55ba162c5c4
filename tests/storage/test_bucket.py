"""Results and inputs in a bucket, against servers on loopback: the protocol, the working copy, the lock, the cache."""

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ine_jax.errors import CorruptRunError, InputError, StorageError
from ine_jax.evaluation.verify import verify
from ine_jax.storage import atomic, publishing, untrusted
from ine_jax.storage.bucket import address, client, inputs, lease, mirror
from ine_jax.storage.bucket.address import Address, parse
from ine_jax.storage.bucket.done import Directory
from tests.support import fakes, stores
from tests.support.metrics import generated


@pytest.fixture(scope="module", params=["s3", "gcs"])
def server(request: pytest.FixtureRequest) -> Iterator[stores.Store]:
    with getattr(stores, request.param)() as store:
        yield store


@pytest.fixture
def root(
    server: stores.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Address]:
    stores.use(server, monkeypatch, tmp_path / "cache")
    yield parse(f"{server.root}/{abs(hash(request.node.name))}/run")
    server.refuse = None


def other_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INE_BUCKET_CACHE", str(tmp_path / "another"))


def tree(folder: Path) -> dict[str, bytes]:
    hidden = {path for path in folder.rglob("*") if path.name == ".lock"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p not in hidden}


def write_block(folder: Path, image: bytes = b"image") -> None:
    with atomic.atomic_folder(folder) as temporary:
        atomic.write_durable(temporary / "0.png", image)
        atomic.write_durable(temporary / "rows.jsonl", b"rows")


def test_an_empty_machine_has_what_was_committed(
    root: Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with mirror.working(root) as folder:
        assert folder.name == "run" and not folder.exists()
        atomic.write_atomic(folder / "run.json", "one")
        atomic.write_atomic(folder / "run.json", "two")  # replaced
        write_block(folder / "blocks" / "00000")
        atomic.append(folder / "timing.jsonl", "a\n")
        atomic.append(folder / "timing.jsonl", "b\n")
        atomic.write_atomic(folder / "gone", "x")
        atomic.remove(folder / "gone")
    other_machine(monkeypatch, tmp_path)
    with mirror.working(root) as again:
        assert again != folder
        found = {"run.json": b"two", "blocks/00000/rows.jsonl": b"rows", "timing.jsonl": b"a\nb\n"}
        assert tree(again) == found  # images come when they are opened
        assert untrusted.read(again / "blocks" / "00000" / "0.png", 10) == b"image"
    assert client.read(root.join("blocks/00000/0.png")) == b"image"  # the names are those of a local run
    assert client.read(root.join("gone")) is None


def test_what_was_not_finished_is_not_there(root: Address, server: stores.Store, tmp_path: Path) -> None:
    def cut(method: str, path: str) -> bool:
        return method != "GET" and "DONE/blocks/00001" in path

    with mirror.working(root) as folder:
        write_block(folder / "blocks" / "00000")
        server.refuse = cut
        with pytest.raises(InputError, match="permission"):
            write_block(folder / "blocks" / "00001", b"killed")
        server.refuse = None
    assert client.read(root.join("blocks/00001/0.png")) == b"killed"  # the payload is there
    with mirror.working(root) as folder:
        assert sorted(path.name for path in (folder / "blocks").iterdir()) == ["00000"]
        write_block(folder / "blocks" / "00001", b"again")
    with mirror.working(root) as folder:
        assert untrusted.read(folder / "blocks" / "00001" / "0.png", 10) == b"again"


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_file_that_is_replaced_is_the_old_or_the_new_one(root: Address, server: stores.Store, at: int) -> None:
    seen = 0

    def cut(method: str, path: str) -> bool:
        nonlocal seen
        seen += method != "GET" and path.endswith("log.jsonl")
        return seen >= at

    with mirror.working(root) as folder:
        atomic.write_atomic(folder / "log.jsonl", "old")
        server.refuse = cut
        with pytest.raises(InputError, match="permission"):
            atomic.write_atomic(folder / "log.jsonl", "new")
        server.refuse = None
    with mirror.working(root) as folder:
        assert (folder / "log.jsonl").read_text() == ("old" if at < 3 else "new")
        atomic.write_atomic(folder / "log.jsonl", "newer")
    with mirror.working(root) as folder:
        assert (folder / "log.jsonl").read_text() == "newer"


def test_two_processes_write_one_directory(root: Address) -> None:
    with mirror.working(root) as one, mirror.working(root) as two:
        assert one != two
        with atomic.lock(one, part="0-of-2"), atomic.lock(two, part="1-of-2"):
            write_block(one / "blocks" / "00000", b"first")
            write_block(two / "blocks" / "00001", b"mine")
            write_block(two / "blocks" / "00000", b"other")  # too late
            assert untrusted.read(two / "blocks" / "00000" / "0.png", 10) == b"first"
            publishing.refresh(one)
            assert untrusted.read(one / "blocks" / "00001" / "0.png", 10) == b"mine"


@pytest.mark.thorough
def test_a_run_is_extended_by_other_machines(root: Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = fakes.plan(n=2)
    start = dataclasses.replace(plan, cells=plan.cells[:1])
    with mirror.working(root) as folder:
        generated(folder, start)
    for shard in ((1, 2), (0, 2)):
        other_machine(monkeypatch, tmp_path / str(shard[0]))
        with mirror.working(root) as folder:
            generated(folder, plan, shard=shard)
    other_machine(monkeypatch, tmp_path)
    generated(tmp_path / "local", start)
    generated(tmp_path / "local", plan)
    with mirror.working(root) as folder:
        assert verify(folder).faults == ()
        for name in ("run.json", "blocks.json", "metadata.jsonl", "blocks/00000/rows.jsonl", "blocks/00005/rows.jsonl"):
            assert (folder / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_one_process_at_a_time_holds_the_lock(root: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    with mirror.working(root) as one, mirror.working(root) as two, mirror.working(root) as three:
        with atomic.lock(one):
            for part in ("", "0-of-2"):
                with pytest.raises(InputError, match="in use"), atomic.lock(two, part=part):
                    pass
            with pytest.raises(InputError, match="in use"), atomic.lock(two, reading=True):
                pass
        with atomic.lock(two, part="0-of-2"):
            with pytest.raises(InputError, match="in use"), atomic.lock(one):
                pass
            with pytest.raises(InputError, match="in use"), atomic.lock(three, part="0-of-2"):
                pass
        with atomic.lock(one):
            pass
    assert not [name for name in client.find(root) if name.startswith("LOCK/")]


def test_the_lock_of_a_dead_process_is_free(root: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        child = process.pid
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: child)
        dead = lease.Lease(root, "all")
    client.create(root.join("LOCK/all"), dead._content)
    with lease.held(root, ""):
        pass


def test_a_lock_of_another_machine_is_free_once_it_is_silent(root: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "LEASE", 0.6)
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    other = lease.Lease(root, "all")
    other.take()
    monkeypatch.setattr(lease, "_machine", lambda: "this")
    with pytest.raises(InputError, match="in use"), lease.held(root, ""):
        pass
    other._end.set()  # suspended
    winners: list[int] = []

    def take(number: int) -> None:
        try:
            with lease.held(root, ""):
                winners.append(number)
                threading.Event().wait(1.0)
        except InputError:
            return

    threads = [threading.Thread(target=take, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    with pytest.raises(StorageError, match="not in touch"):
        other.require()


def test_damage_is_noticed(root: Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with mirror.working(root) as folder:
        write_block(folder / "blocks" / "00000")
        atomic.write_atomic(folder / "run.json", "record")
    client.write(root.join("blocks/00000/0.png"), b"other")
    other_machine(monkeypatch, tmp_path)
    with mirror.working(root) as folder, pytest.raises(CorruptRunError, match="sha256"):
        untrusted.read(folder / "blocks" / "00000" / "0.png", 10)
    client.write(root.join("DONE/run.json"), b"{}")
    with pytest.raises(CorruptRunError, match="not as it was written"), mirror.working(root):
        pass


def test_inputs_are_copied_once_per_version(root: Address, server: stores.Store) -> None:
    client.write(root.join("model/config.json"), b"{}")
    client.write(root.join("model/part/weights.bin"), b"w")
    first = inputs.local(root.join("model"))
    assert first.name == "model" and tree(first) == {"config.json": b"{}", "part/weights.bin": b"w"}
    server.requests.clear()
    assert inputs.local(root.join("model")) == first
    client.write(root.join("model/config.json"), b"[]")
    second = inputs.local(root.join("model"))
    assert second != first and (second / "config.json").read_bytes() == b"[]"
    assert (first / "config.json").read_bytes() == b"{}"  # whoever reads it goes on
    assert inputs.local(root.join("model/config.json")).read_bytes() == b"[]"


def test_of_results_only_committed_files_are_inputs(root: Address) -> None:
    with mirror.working(root) as folder:
        atomic.write_atomic(folder / "learned.safetensors", "vectors")
    client.write(root.join("half.safetensors"), b"never finished")
    assert tree(inputs.local(root)) == {"learned.safetensors": b"vectors"}
    client.write(root.join("learned.safetensors"), b"changed")
    with pytest.raises(CorruptRunError):
        inputs.local(root)


@pytest.mark.parametrize("name", ["../outside", "a/../../b", "a//b", "./a"])
def test_names_that_lead_elsewhere_are_rejected(name: str) -> None:
    assert not address.is_safe(name)
    with pytest.raises(InputError):
        parse(f"s3://bucket/{name}")


def test_errors_name_the_address(root: Address, server: stores.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = parse(f"{root.scheme}://no-such-bucket-here/run")
    with pytest.raises(InputError, match="no such bucket"):
        inputs.local(nowhere)
    with pytest.raises(InputError, match="no such bucket"):
        client.write(nowhere, b"")
    with pytest.raises(InputError, match="no such object"):
        inputs.local(root.join("nothing"))


def test_a_directory_knows_its_units(root: Address, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    one, two = Directory(root), Directory(root)
    assert one.commit("a/b", {"a/b": tmp_path / "file"})
    two.load()
    assert two.unit_of("a/b") == "a/b" and two.unit_of("a") is None
    two.remove("a/b")
    one.load()
    assert not one.units
