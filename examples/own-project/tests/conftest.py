import pytest

pytest.register_assert_rewrite("overproof.testing")  # a contract test that fails shows its values
