"""Compiled kernels on the disk: right or not there."""

import multiprocessing
import os
import stat

import pytest

from spikeloom.kernel import cuda_cache

ENTRY = (b"\x7fELF code\0", 40, 8)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SPIKELOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_written_is_read_for_the_same_key_only(folder):
    assert cuda_cache.read("text sm_90") is None
    cuda_cache.write("text sm_90", ENTRY)
    assert cuda_cache.read("text sm_90") == ENTRY
    assert cuda_cache.read("text sm_80") is None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: b"x" + c[1:]])
def test_a_damaged_file_is_taken_for_missing(folder, damage):
    cuda_cache.write("key", ENTRY)
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert cuda_cache.read("key") is None
    cuda_cache.write("key", ENTRY)
    assert cuda_cache.read("key") == ENTRY


def test_the_oldest_go_first(folder, monkeypatch):
    monkeypatch.setattr(cuda_cache, "KEPT", 10)
    for age in range(10):
        cuda_cache.write(f"key {age}", ENTRY)
    for age, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (1000 + age, 1000 + age))
    old = min(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    kept = [key for key in range(10) if cuda_cache._path(f"key {key}") == old]
    assert cuda_cache.read(f"key {kept[0]}") == ENTRY  # now it is the youngest
    cuda_cache.write("one more", ENTRY)
    assert len(list(folder.iterdir())) == 9
    assert old.exists() and cuda_cache.read("one more") == ENTRY


def test_a_folder_that_cannot_be_used_costs_only_time(folder, monkeypatch):
    folder.write_text("no folder")
    cuda_cache.write("key", ENTRY)
    assert cuda_cache.read("key") is None
    monkeypatch.setenv("SPIKELOOM_CACHE", "")
    cuda_cache.write("key", ENTRY)
    assert cuda_cache.folder() is None and cuda_cache.read("key") is None


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SPIKELOOM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cuda_cache.folder() == tmp_path / "spikeloom" / "cuda"


def _write_often(number):
    for _ in range(50):
        cuda_cache.write("key", (bytes([number]) * 1000, number, number))
        code, registers, local = cuda_cache.read("key")
        assert set(code) == {registers} == {local}


def test_processes_may_share_a_folder(folder):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(n,)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(list(folder.iterdir())) == 1
