"""What stands behind `make peers`: this layer beside the machine's limits and beside its peers."""
