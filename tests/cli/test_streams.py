"""What can't be written is said of the stream or the file that it was, and of none by a guess."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.disks import fill, small_disk

# A command of the test's own, in the place of one: it does what its argument says.
_COMMAND = """
import os, socket, sys, types
import click
from casemate.cli.main import main

module = types.ModuleType("casemate.cli.new")
sys.modules[module.__name__] = module

@click.command()
@click.argument("what")
@click.argument("place")
@click.option("--json", "as_json", is_flag=True)
def command(what, place, as_json):
    click.echo("some output")
    if what == "pipe":
        one, other = socket.socketpair()
        other.close()
        one.send(b"x")
    elif what == "nameless":
        with open(place, "wb", buffering=0) as file:
            file.write(b"x")
    elif what == "named":
        os.mkdir(place)
    elif what == "progress":
        click.echo("progress", err=True)

module.command = command
main()
"""


def ran(what, place="", *, json_wanted=False, **streams):
    command = [sys.executable, "-c", _COMMAND, "new", what, str(place)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    done = subprocess.run(
        [*command, "--json"] if json_wanted else command, **streams, text=True, check=False
    )
    assert "Exception ignored" not in (done.stderr or "")
    return done


def test_what_is_not_said_to_be_a_stream_is_not_blamed_on_one(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        done = ran("nameless", disk / "file")
    assert done.returncode == 1
    assert "OSError: [Errno 28] No space left" in done.stderr
    assert "output.unwritable" not in done.stderr


def test_a_folder_that_a_full_disk_has_no_room_for_is_named(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,nr_inodes=1", disk], check=True)
        done = ran("named", disk / "folder")
    assert done.returncode == 2
    assert "file.unwritable" in done.stderr
    assert f"field:    {disk / 'folder'}" in done.stderr


def test_a_connection_whose_other_end_is_gone_is_told(tmp_path):
    done = ran("pipe")
    assert (done.returncode, "pipe.broken" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("full", ["stdout", "stderr", "both"])
def test_a_stream_that_is_full_is_named(full):
    with Path("/dev/full").open("wb") as device:
        given = {name: device for name in ("stdout", "stderr") if full in (name, "both")}
        done = ran("progress", json_wanted=True, **given)
    assert done.returncode == 2
    if full == "stdout":
        assert "output.unwritable" in done.stderr
        assert "field:    stdout" in done.stderr
    if full == "stderr":
        error = json.loads(done.stdout.splitlines()[-1])["error"]
        assert (error["code"], error["field"]) == ("output.unwritable", "stderr")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_who_reads_no_longer_is_told_nothing(stream):
    reader, writer = os.pipe()
    os.close(reader)
    done = ran("progress", **{stream: writer})
    os.close(writer)
    assert done.returncode == 1
    assert (done.stderr or "") == ""


def test_a_stream_that_is_closed_is_none(tmp_path):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", _COMMAND, "new", "progress", "x"],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "progress\n")
