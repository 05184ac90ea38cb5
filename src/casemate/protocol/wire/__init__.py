"""Generated from `proto/casemate/v1` by `make proto`."""
