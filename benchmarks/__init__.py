"""The asv suites. CONTRIBUTING.md says how to add one; presets.py says what is measured."""
