"""The chaos tests' own marker: `-m "not chaos"` leaves them out."""


def pytest_configure(config):
    config.addinivalue_line("markers", "chaos: kills processes for up to a minute")
