"""Projects: what the programs need around them, made in one go. So far: the demo's."""
