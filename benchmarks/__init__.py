"""Measurements that take minutes to hours; never part of the tests."""
