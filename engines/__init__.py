"""Engines that tests, benchmarks and a developer start on one machine."""
