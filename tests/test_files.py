"""Files that are whole or not there, and never anything else than regular files."""

import os
import re
import socket
import stat
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from spikeloom import SpikingLayer, compress, export, neurons
from spikeloom.files import whole_file
from spikeloom.report import Report


def write(path: Path, text: str = "new") -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failing_block_leaves_the_old_file_and_no_temporary(error, tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), whole_file(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_failing_system_call_leaves_the_old_file_and_no_temporary(call, tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_content_is_on_the_disk_before_the_old_file_goes(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), sync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), replace(*a))[1])
    write(tmp_path / "a.txt")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its place, the folder


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_any_other(mask, tmp_path):
    old = os.umask(mask)
    try:
        (tmp_path / "plain").write_text("")
        write(tmp_path / "whole")
    finally:
        os.umask(old)
    assert mode(tmp_path / "whole") == mode(tmp_path / "plain") == 0o666 & ~mask


def test_the_umask_of_the_process_is_never_set(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("sets the umask"))
    write(tmp_path / "a.txt")


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o755, 0o711])
def test_a_replaced_file_keeps_its_permissions(permissions, tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(permissions)
    with whole_file(target) as temporary:
        assert mode(temporary) & ~permissions == 0  # no other user can read it meanwhile
        temporary.write_text("new")
    assert (target.read_text(), mode(target)) == ("new", permissions)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    os.chown(target, 1234, 4321)
    target.chmod(0o640)
    write(target)
    found = target.stat()
    assert (found.st_uid, found.st_gid, mode(target)) == (1234, 4321, 0o640)


def test_a_file_whose_owner_cannot_be_kept_is_refused(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    target.write_text("old")
    real = os.stat
    theirs = os.stat_result([*real(target)[:4], 1234, *real(target)[5:]])

    def not_permitted(*args):
        raise PermissionError(1, "Operation not permitted")

    of = {str(target): theirs}
    monkeypatch.setattr(os, "stat", lambda path, **how: of.get(str(path)) or real(path, **how))
    monkeypatch.setattr(os, "fchown", not_permitted)
    with pytest.raises(PermissionError, match=r"a\.txt belongs to another user.*remove it first"):
        write(target)
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("permissions", [0o444, 0o400, 0o555])
def test_a_read_only_file_is_refused_for_root_too(permissions, tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(permissions)
    with pytest.raises(PermissionError, match=r"path: .*a\.txt is read-only; chmod u\+w"):
        write(target)
    assert (target.read_text(), mode(target)) == ("old", permissions)
    assert list(tmp_path.iterdir()) == [target]


def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "a.txt"
    target.write_text("old")
    target.chmod(0o600)
    for number, leads in enumerate((target, Path("there/a.txt"), Path("link0"))):
        link = tmp_path / f"link{number}"
        link.symlink_to(leads)
        with whole_file(link) as temporary:
            assert temporary.parent == target.parent  # the place of a rename without a copy
            temporary.write_text(f"new {number}")
        assert link.is_symlink() and link.readlink() == leads
        assert (target.read_text(), mode(target)) == (f"new {number}", 0o600)


def test_a_symbolic_link_to_a_file_that_is_not_there_makes_it(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("a.txt")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_symbolic_link_that_leads_to_itself_is_refused(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("link")
    with pytest.raises(OSError, match="link"):
        write(link)
    assert link.is_symlink()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_device(path: Path) -> None:
    """A device of the test's own: one of the system's must never be at stake."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


SPECIAL = {"FIFO": make_fifo, "socket": make_socket, "character device": make_device}


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "through a link"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_and_left(kind, linked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    special, link = Path("special"), Path("link")
    SPECIAL[kind](special)
    link.symlink_to(special)
    path = link if linked else special
    before = special.lstat()
    with pytest.raises(FileExistsError, match=f"path: {path} is a {kind}, no regular file"):
        write(path)
    after = special.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "special"]


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"path: {tmp_path} is a folder; name the file"):
        write(tmp_path)


def test_a_name_that_ends_like_a_folder_is_refused_and_nothing_made(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"new/ names a folder; name the file in it"):
        write(f"{tmp_path}/new/")
    assert not list(tmp_path.iterdir())


def test_an_empty_path_is_named_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path: is empty; name a file"):
        write("")


@pytest.mark.parametrize("path", [None, 1, b"bytes"])
def test_what_is_no_path_is_named(path):
    with pytest.raises(TypeError, match=f"path: must be a string or a Path, got {path!r}"):
        write(path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        write(tmp_path / "nowhere" / "a.txt")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="file is no folder"):
        write(tmp_path / "file" / "a.txt")


def test_a_folder_that_takes_no_file_is_named(tmp_path, monkeypatch):
    def denied(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError, match=f"path: the folder {tmp_path} takes no new file"):
        write(tmp_path / "a.txt")


def test_a_long_name_has_a_temporary_too(tmp_path):
    target = tmp_path / ("a" * 250 + ".txt")
    write(target)
    assert target.read_text() == "new"


def report() -> Report:
    table = Report("Table", ("name", "share"))
    table.add("a", 0.5)
    return table


def statistics() -> compress.Statistics:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), SpikingLayer(neurons.LIF())).eval()
    return compress.calibrate(net, [torch.ones(5, 4, 2)])


WRITERS = {
    "report.json": lambda path: report().save(path),
    "report.png": lambda path: report().plot("share", path),
    "table.png": lambda path: neurons.draw_hg(neurons.fit_hg("gelu", -4.0, 4.0), "gelu", path),
    "stats.safetensors": lambda path: statistics().save(path),
    "graph.nir": lambda path: export.write(
        path, nir.NIRGraph.from_list(nir.Linear(weight=np.eye(2, dtype=np.float32)))
    ),
    "model.nir": lambda path: export.to_nir(
        torch.nn.Linear(2, 2), torch.rand(3, 1, 2), target="nir", path=path
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_keeps_the_permissions_and_the_link(name, tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / name, tmp_path / name
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    WRITERS[name](link)
    assert link.is_symlink()
    assert target.stat().st_size > 3
    assert mode(target) == 0o600
    assert list(target.parent.iterdir()) == [target]


WRITES = re.compile(
    r"\.(write_text|write_bytes|savefig|save_file)\(|\bnir\.write\(|\bopen\(.*[\"'][wax]"
)


def test_every_file_is_written_through_a_temporary_one():
    root = Path(__file__).parents[1]
    written = [
        line.strip()
        for folder in ("src", "plugins", "examples")
        for path in (root / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if WRITES.search(line)
    ]
    assert len(written) > 5
    assert [line for line in written if "temporary" not in line] == []
