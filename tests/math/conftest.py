"""Fixtures of the maths tests."""

from clusters import case as case
