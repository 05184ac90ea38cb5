"""Container images: read one from a layout or an archive, and flatten its layers into a tree."""

from casemate.image.oci.flatten import ContainerTree, read_container_image

__all__ = ["ContainerTree", "read_container_image"]
