"""Manifests that aren't what they should be."""

import pytest
from tests.support.published import FOLDER, content, needs_published

from casemate.endorsements.rim import parse_rim
from casemate.errors import MalformedError


@needs_published
@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.xml")), ids=lambda path: path.stem)
def test_a_document_without_canonical_form_is_malformed(path):
    """Found by fuzzing: canonical XML knows no relative namespaces."""
    document = content(str(path.relative_to(FOLDER)))
    relative = document.replace(b"<SoftwareIdentity ", b'<SoftwareIdentity xmlns:x="x" ', 1)
    assert relative != document
    with pytest.raises(MalformedError) as caught:
        parse_rim(relative)
    assert caught.value.field == "XML"
