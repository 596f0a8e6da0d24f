"""Whether the tests notice small changes of the source: each is tried against the tests that run the changed line."""
