"""What counts as memory, how much of it there is, and which swap leaks: told by other kernels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.trees import KEY, directory, file

from casemate.errors import UsageError
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.storage import (
    extracted_size,
    file_system,
    is_memory,
    memory_left,
    require_memory,
    require_memory_backed,
    require_no_plain_swap,
)

MIB = 1 << 20
HEAD = "Filename\tType\tSize\tUsed\tPriority\n"


class Kernel:
    """A folder with a ``proc`` and a ``sys`` in it."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.sys = folder / "proc", folder / "sys"
        self.write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8192 kB\nSwapFree: 0 kB\n")

    def write(self, name: str, text: str) -> None:
        path = self.proc.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def swap(self, *devices: str) -> None:
        self.write("proc/swaps", HEAD + "".join(f"{d} partition 9 0 -2\n" for d in devices))

    def left(self) -> int:
        return memory_left(proc=self.proc, sys=self.sys)

    def refuses_swap(self, *, allow_disk: bool = False) -> str | None:
        try:
            require_no_plain_swap(allow_disk=allow_disk, proc=self.proc, sys=self.sys)
        except UsageError as error:
            return f"{error.code}: {error.got}"
        return None


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_no_swap_is_fine(kernel: Kernel) -> None:
    assert kernel.refuses_swap() is None
    kernel.swap()
    assert kernel.refuses_swap() is None


def test_plain_swap_is_refused_unless_insisted_on(kernel: Kernel) -> None:
    kernel.swap("/dev/sdz2", "/swap\\040file")
    assert kernel.refuses_swap() == "image.swap: /dev/sdz2, /swap file"
    assert kernel.refuses_swap(allow_disk=True) is None


def test_swap_on_dm_crypt_is_fine(kernel: Kernel) -> None:
    kernel.swap("/dev/dm-7")
    kernel.write("sys/block/dm-7/dm/uuid", "CRYPT-PLAIN-swap\n")
    assert kernel.refuses_swap() is None


@pytest.mark.parametrize(
    ("below", "refused"), [("CRYPT-LUKS2-x\n", None), ("LVM-y\n", "image.swap: /dev/dm-8")]
)
def test_a_volume_counts_by_what_lies_below_it(
    kernel: Kernel, below: str, refused: str | None
) -> None:
    kernel.swap("/dev/dm-8")
    kernel.write("sys/block/dm-8/dm/uuid", "LVM-whatever\n")
    kernel.write("sys/block/dm-8/slaves/dm-0/size", "1")
    kernel.write("sys/block/dm-0/dm/uuid", below)
    assert kernel.refuses_swap() == refused


def test_one_plain_device_below_a_volume_is_too_many(kernel: Kernel) -> None:
    kernel.swap("/dev/dm-8")
    for name, uuid in (("dm-0", "CRYPT-LUKS2-x"), ("sdz1", "")):
        kernel.write(f"sys/block/dm-8/slaves/{name}/size", "1")
        kernel.write(f"sys/block/{name}/dm/uuid", uuid)
    assert kernel.refuses_swap() == "image.swap: /dev/dm-8"


@pytest.mark.parametrize(
    ("behind", "refused"),
    [(None, None), ("none\n", None), ("/dev/sdz3\n", "image.swap: /dev/zram9")],
)
def test_zram_is_memory_unless_it_writes_back(
    kernel: Kernel, behind: str | None, refused: str | None
) -> None:
    kernel.swap("/dev/zram9")
    if behind is not None:
        kernel.write("sys/block/zram9/backing_dev", behind)
    assert kernel.refuses_swap() == refused


def test_the_memory_that_is_left_is_the_machines(kernel: Kernel) -> None:
    assert kernel.left() == 8 * MIB


def test_a_control_groups_limit_counts_less_what_it_uses(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/pods/one\n")
    kernel.write("sys/fs/cgroup/pods/memory.max", "max\n")
    kernel.write("sys/fs/cgroup/pods/memory.current", "1\n")
    kernel.write("sys/fs/cgroup/pods/one/memory.max", f"{6 * MIB}\n")
    kernel.write("sys/fs/cgroup/pods/one/memory.current", f"{4 * MIB}\n")
    assert kernel.left() == 2 * MIB
    kernel.write(
        "sys/fs/cgroup/pods/one/memory.stat", f"anon 9\ninactive_file {MIB}\nactive_file {MIB}\n"
    )
    assert kernel.left() == 4 * MIB, "the cache of files can be dropped"


def test_a_group_further_up_limits_too(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/pods/one\n")
    kernel.write("sys/fs/cgroup/pods/memory.max", f"{3 * MIB}\n")
    kernel.write("sys/fs/cgroup/pods/memory.current", "0\n")
    assert kernel.left() == 3 * MIB


def test_in_a_container_the_group_may_be_the_visible_root(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "4:memory:/docker/deadbeef\n0::/\n")
    kernel.write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{5 * MIB}\n")
    kernel.write("sys/fs/cgroup/memory/memory.usage_in_bytes", f"{2 * MIB}\n")
    kernel.write("sys/fs/cgroup/memory/memory.stat", f"total_inactive_file {MIB}\ncache 7\n")
    assert kernel.left() == 4 * MIB


def test_version_1_without_a_limit_is_no_limit(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "4:memory:/\n")
    kernel.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    kernel.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "9\n")
    assert kernel.left() == 8 * MIB


def test_this_machine_has_some_memory_left() -> None:
    assert 0 < memory_left() < 1 << 50


def test_more_than_is_left_is_refused_before_it_is_taken() -> None:
    require_memory(MIB, MIB, what="image x")
    with pytest.raises(UsageError) as caught:
        require_memory(3 * MIB, MIB, what="image x")
    assert caught.value.code == "image.memory"
    assert "image x" in caught.value.message
    assert "3 MiB" in (caught.value.expected or "")
    assert "1 MiB" in (caught.value.got or "")


def test_what_a_tree_takes_is_counted_in_pages(tmp_path: Path) -> None:
    tree = [directory("d"), file("d/one", b"x"), file("d/two", bytes(4097))]
    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        assert extracted_size(image) == 3 * 1024 + 4096 + 8192


def test_a_folder_on_a_disk_is_refused_unless_insisted_on(tmp_path: Path, kernel: Kernel) -> None:
    number = tmp_path.stat().st_dev
    mount = f"9 8 {os.major(number)}:{os.minor(number)} / {tmp_path} rw - ext4 /dev/sdz rw\n"
    kernel.write("proc/self/mountinfo", mount)
    folder = tmp_path / "not" / "yet"
    with pytest.raises(UsageError) as caught:
        require_memory_backed(folder, allow_disk=False, proc=kernel.proc)
    assert (caught.value.code, caught.value.got) == ("image.disk", "ext4")
    require_memory_backed(folder, allow_disk=True, proc=kernel.proc)
    kernel.write("proc/self/mountinfo", mount.replace("ext4", "tmpfs"))
    require_memory_backed(folder, allow_disk=False, proc=kernel.proc)


def test_a_link_to_a_disk_counts_as_the_disk(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or not is_memory(shared) or is_memory(tmp_path):
        pytest.skip("needs a disk and a memory file system")
    link = shared / f"casemate-test-{os.getpid()}"
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(UsageError, match="disk"):
            require_memory_backed(link / "out", allow_disk=False)
    finally:
        link.unlink()


def test_a_file_system_that_the_kernel_does_not_name_is_no_memory(kernel: Kernel) -> None:
    kernel.write("proc/self/mountinfo", "")
    assert file_system(kernel.proc, proc=kernel.proc) == ""
    assert not is_memory(kernel.proc, proc=kernel.proc)
