"""The way to work air-gapped, followed word for word, on published evidence.

Its broker needs secrets and a policy, and is tried elsewhere; of AMD's service there is a stand-in
that has the chip's certificate and no revocation list, because none was published.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.collateral.test_gather import PublishedKds
from tests.support.published import FOLDER, needs_published

from casemate.project.programs import casemate_command

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "air-gapped.md"
LACKS_THE_LIST = 6


def commands():
    text = HOW_TO.read_text().replace("\\\n", " ")
    found = re.findall(r"^    casemate (.*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in found if not line.startswith("broker")]


@needs_published
def test_every_command_does_what_the_text_says(tmp_path):
    shutil.copy(FOLDER / "snp" / "milan_v3_report.bin", tmp_path / "report.bin")
    said = {}
    with PublishedKds() as kds:
        for words in commands():
            arguments = [kds.url if word.startswith("https://") else word for word in words]
            done = subprocess.run(
                casemate_command(*arguments), cwd=tmp_path, capture_output=True, text=True,
                env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "none")}, check=False,
            )  # fmt: skip
            fetches = "report.bin" in words and "fetch" in words
            assert done.returncode == (LACKS_THE_LIST if fetches else 0), [*words, done.stderr]
            said[" ".join(words[:2])] = done.stdout
    assert "amd/vcek/Milan/" in said["collateral import"]
    assert "verdict:                  genuine" in said["verify report.bin"]
    assert not (tmp_path / "none").exists(), "nothing was kept but where it was said"
