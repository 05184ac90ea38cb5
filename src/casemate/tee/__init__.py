"""The machine's own TEE: obtain Evidence for report data of one's own making."""
