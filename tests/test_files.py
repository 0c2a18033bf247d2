"""Output goes where it was sent and nowhere else; files are whole or not there; results are read back as what they were."""

import os
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from vitlens import InputError
from vitlens import files as under_test
from vitlens.cli.output import hand_over_page
from vitlens.files import as_path, check_writable, is_stream, make_folder, write_whole
from vitlens.pages.page import write_page

PACKAGE = Path(under_test.__file__).parent


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_a_file_gets_its_content_at_once_and_keeps_its_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", b"1")
    finally:
        os.umask(before)
    (tmp_path / "old").write_bytes(b"0")
    (tmp_path / "old").chmod(0o604)
    write_whole(tmp_path / "old", b"2")
    assert modes(tmp_path) == {"new": 0o640, "old": 0o604}
    assert (tmp_path / "old").read_bytes() == b"2"
    write_whole(str(tmp_path / ("ä" * 125)), b"3")
    assert len(list(tmp_path.iterdir())) == 3


def test_links_stay_and_what_they_point_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "target").write_bytes(b"old")
    links = {
        "direct": "far/target",
        "twice": "direct",
        "dangling": "far/new",
        "lost": "nowhere/new",
        "a": "b",
        "b": "a",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    write_whole(tmp_path / "twice", b"new")
    write_whole(tmp_path / "dangling", b"made")
    assert all((tmp_path / name).is_symlink() for name in links)
    assert (tmp_path / "far" / "target").read_bytes() == b"new"
    assert (tmp_path / "far" / "new").read_bytes() == b"made"
    for name, sentence in {"lost": "there is no folder", "a": "symbolic links"}.items():
        for call in (check_writable, lambda path: write_whole(path, b"")):
            with pytest.raises(InputError, match=sentence):
                call(tmp_path / name)


def test_pipes_are_written_to_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe.html"
    os.mkfifo(pipe)
    check_writable(pipe)
    with pytest.raises(InputError, match="nothing reads from this pipe"):
        write_whole(pipe, b"lost")
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    content = b"x" * 300_000
    for _ in range(2000):
        with suppress(InputError):
            write_whole(pipe, content)
            break
        reader.join(0.005)
    reader.join(20)
    assert found == [content]
    assert is_stream(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe.html"]


def test_what_stands_for_an_open_descriptor_is_written_through_it(tmp_path):
    """As /dev/stdout is: a link that leads to a descriptor of this process, be it a pipe or a file."""
    end, start = os.pipe()
    with open(tmp_path / "log", "wb") as log:
        for name, descriptor in {"pipe": start, "file": log.fileno()}.items():
            (tmp_path / name).symlink_to(f"/proc/self/fd/{descriptor}")
        (tmp_path / "again").symlink_to("file")
        log.write(b"before ")
        log.flush()
        for name in ("pipe", "again"):
            check_writable(tmp_path / name)
            assert is_stream(tmp_path / name)
            write_whole(tmp_path / name, b"page ")
        log.write(b"after")
    assert os.read(end, 100) == b"page "
    assert (tmp_path / "log").read_bytes() == b"before page after"
    assert all((tmp_path / name).is_symlink() for name in ("pipe", "file", "again"))
    for descriptor in (end, start):
        os.close(descriptor)
    with pytest.raises(InputError, match="Bad file descriptor"):
        write_whole(tmp_path / "pipe", b"")


def test_devices_are_written_to_and_never_replaced(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.open("wb").close()
    except OSError:
        pytest.skip("device nodes cannot be made or opened here")
    (tmp_path / "link").symlink_to(device)
    for name in ("null", "link"):
        check_writable(tmp_path / name)
        write_whole(tmp_path / name, b"page")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_what_cannot_be_a_file_is_a_sentence(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"kept")
    with socket.socket(socket.AF_UNIX) as listening:
        where = os.getcwd()
        os.chdir(tmp_path)
        listening.bind("socket")
        os.chdir(where)
    wrong = {
        tmp_path / "folder": "is a folder",
        tmp_path / "socket": "is a socket",
        tmp_path / "none" / "page.html": "there is no folder",
        tmp_path / "file" / "page.html": "a part of its path is a file",
        tmp_path / ("x" * 300): "too long for a file",
        "page\0.html": "no file can have this name",
    }
    for path, sentence in wrong.items():
        for call in (check_writable, lambda path: write_whole(path, b"")):
            with pytest.raises(InputError, match=sentence):
                call(path)
    for path in (3, None, b"bytes", ["a"]):
        with pytest.raises(InputError, match="path is the path of a file, not"):
            as_path(path)
    for path, sentence in {
        tmp_path / "file": "is no folder",
        "a\0b": "null",
        tmp_path / ("x" * 300): "too long",
    }.items():
        with pytest.raises(InputError, match=sentence):
            make_folder(path)
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)


def test_what_may_not_be_written_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"kept")
    denied = {tmp_path / "file": "write-protected", tmp_path / "new": "is not writable"}
    for path, sentence in denied.items():
        # Root may write everything, so the answer is given for it.
        refused = {path, path.parent} if path.name == "new" else {path}
        monkeypatch.setattr(os, "access", lambda asked, mode, refused=refused: Path(asked) not in refused)
        with pytest.raises(InputError, match=sentence):
            check_writable(path)
    assert (tmp_path / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("stopped", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_stopped_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, stopped):
    (tmp_path / "file").write_bytes(b"old")

    def stop(*_):
        raise stopped

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, stop)
            with pytest.raises(InputError if isinstance(stopped, OSError) else KeyboardInterrupt):
                write_whole(tmp_path / "file", b"new")
        assert os.listdir(tmp_path) == ["file"]
        assert (tmp_path / "file").read_bytes() == b"old"


def test_two_processes_that_write_one_file_do_not_meet(tmp_path):
    partial = []
    replace = os.replace

    def watch(start, end):
        partial.append(start)
        replace(start, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", watch)
        for _ in range(2):
            write_whole(tmp_path / "file", b"")
    assert len(set(partial)) == 2


def test_only_one_place_writes_files():
    """A page, table, result or setting that is written by hand lacks all of the above."""
    by_hand = (
        "write_text(",
        "write_bytes(",
        "os.replace(",
        "os.rename(",
        "save_file(",
        ".rename(path",
        ', "w")',
        ", 'wb')",
    )
    exempt = {PACKAGE / "files.py"}
    root = PACKAGE.parent
    sources = [
        *PACKAGE.rglob("*.py"),
        *(root / "experiments").glob("*.py"),
        *(root / "experiments" / "notebooks").glob("*.py"),
    ]
    found = [
        f"{source.relative_to(root)}: {word}"
        for source in sources
        if source not in exempt
        for word in by_hand
        if word in source.read_text()
    ]
    assert not found


def test_a_page_can_be_sent_to_standard_output(tmp_path, capfd):
    """Through links of our own: the system's are left alone."""
    out = tmp_path / "page.html"
    out.symlink_to("/proc/self/fd/1")
    write_page(out, "T", {}, [])
    hand_over_page("open", "m", out, False)
    stdout, stderr = capfd.readouterr()
    assert stdout.lstrip().lower().startswith("<!doctype html>")
    assert stdout.rstrip().endswith("</html>")
    assert "wrote" in stderr
    assert out.is_symlink()
