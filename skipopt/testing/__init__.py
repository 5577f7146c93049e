"""Test suites for implementations of skipopt's interfaces, to be run with pytest.

`skipopt.testing.samplers.SamplerContract` tests a sampler: subclass it in a test module.
`skipopt.testing.drafters.CHECKS` are functions that test a drafter, and
`skipopt.testing.architectures.CHECKS` those that test a model. For readable failures, call
`pytest.register_assert_rewrite("skipopt.testing")` in `conftest.py` first. pytest is needed only
where a suite is imported.
"""
